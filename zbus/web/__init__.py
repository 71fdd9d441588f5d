"""Internal: the page of `zbus web`: what it shows, what keeps it current, what serves it. It never sends."""
