"""Internal: from the sockets to a channel."""
