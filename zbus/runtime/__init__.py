"""Internal: what CPython, libzmq and the kernel force on us: locks, threads, contexts, descriptors, exits."""
