"""Internal: the bus directory, through which the processes of one machine find each other."""
