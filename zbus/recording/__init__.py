"""Internal: recordings of a bus as MCAP files: writing, reading, checking, and sending them again."""
