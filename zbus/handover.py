"""Handing over: what `send` accepted reaches the peers' processes before the publisher lets go of them.

libzmq alone would lose the end of a stream when a subscriber is slow: an engine that has stopped reading,
because its queue is full, takes the end of the connection for an error and drops what the kernel still holds
(`in_event_internal` in its source at v4.3.5). So a closing publisher keeps a duplicate of each connection's
descriptor, while libzmq writes what is left and closes its own, until the kernel says that the peer has
read everything.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import array
import fcntl
import os
import termios
import time
from collections.abc import Iterable
from contextlib import suppress

from .descriptors import unix_sockets
from .threads import sleep

__all__ = ["Connections"]

_LOOK_SECONDS = 0.001


class Connections:
    """Duplicates of this process's connections to some unix sockets."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Duplicate every connection to one of `paths`."""
        self._sockets: list[socket.socket] = []
        wanted = set(paths)
        if wanted:
            for number, _, peer in unix_sockets():
                if peer in wanted:
                    with suppress(OSError):  # closed meanwhile, by libzmq
                        self._sockets.append(socket.socket(fileno=os.dup(number)))

    def wait(self, deadline: float) -> None:
        """Wait until the peers have read everything, or until `deadline` (monotonic)."""
        while any(map(_unread, self._sockets)) and time.monotonic() < deadline:
            sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """Let go of the duplicates."""
        for connection in self._sockets:
            connection.close()


def _unread(connection: socket.socket) -> int:
    """Return how many bytes the peer has not read yet; 0 if it is gone."""
    pending = array.array("i", [0])
    try:
        fcntl.ioctl(connection, termios.TIOCOUTQ, pending)
    except OSError:
        return 0
    return pending[0]
