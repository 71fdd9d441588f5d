"""Linger: what `send` accepted reaches the subscribers' processes before a publisher closes the connections.

libzmq alone would lose the end of a stream when a subscriber is slow. A receiving engine that has stopped
reading because its queue is full takes the end of the connection for an error, and drops what the kernel
still holds (`in_event_internal` in its source at v4.3.5). So the publisher keeps each connection open with a
duplicate of its descriptor:

    duplicate the descriptors ─► libzmq writes what is left and closes its own ─► wait until the kernel says
    that the peers have read everything, or until `linger` is over ─► close the duplicates

A connection is found by the id in the name of the peer's socket, not by the path. A directory has several
paths if a parent of it is a symbolic link or mounted twice.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import os
import time
from collections.abc import Iterable
from contextlib import suppress

from ..runtime.descriptors import socket_id, unix_sockets, unread_bytes
from ..runtime.threads import sleep

__all__ = ["PendingConnections"]

_LOOK_SECONDS = 0.001


class PendingConnections:
    """Duplicates of this process's connections to some ingresses."""

    def __init__(self, idents: Iterable[str]) -> None:
        """Duplicate every connection to one of these ids."""
        self._sockets: list[socket.socket] = []
        wanted = set(idents)
        if wanted:
            for number, _, peer in unix_sockets():
                if socket_id(peer) in wanted:
                    with suppress(OSError):  # closed meanwhile, by libzmq
                        self._sockets.append(socket.socket(fileno=os.dup(number)))

    def wait(self, deadline: float) -> None:
        """Wait until the peers have read everything, or until `deadline` (monotonic)."""
        while self.unread() and time.monotonic() < deadline:
            sleep(_LOOK_SECONDS)

    def unread(self) -> bool:
        """Return whether a peer has not read everything."""
        return any(unread_bytes(held.fileno()) for held in self._sockets)

    def close(self) -> None:
        """Close the duplicates."""
        for connection in self._sockets:
            connection.close()
