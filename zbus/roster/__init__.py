"""Internal: the bus directory, where the processes of one machine find each other."""
