"""Internal: what can be known of a bus from outside, as plain data. Nothing here prints, or joins a bus."""
