"""Internal: one process's place on a bus, which a `Bus` is only a handle on."""
