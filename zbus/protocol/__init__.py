"""Internal: the protocol as pure functions and state, with no ZeroMQ, socket, thread, asyncio or clock."""
