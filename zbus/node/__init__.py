"""Internal: the node, which is what a process has open of a bus. A `Bus` is a handle on one."""
