"""Internal: from `send` to the sockets."""
