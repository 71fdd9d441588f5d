"""Handing over: what `send` accepted reaches the peers' processes before the publisher lets go of them.

libzmq alone would lose the end of a stream when a subscriber is slow: an engine that has stopped reading,
because its queue is full, takes the end of the connection for an error and drops what the kernel still holds
(`in_event_internal` in its source at v4.3.5). So a closing publisher keeps a duplicate of each connection's
descriptor, while libzmq writes what is left and closes its own, until the kernel says that the peer has
read everything.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import termios
import time
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["Connections"]

_LOOK_SECONDS = 0.001


class Connections:
    """Duplicates of this process's connections to some unix sockets; without /proc, none."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Duplicate every connection to one of `paths`."""
        self._sockets: list[socket.socket] = []
        wanted = set(paths)
        if not wanted or not os.path.isdir("/proc/self/fd"):
            return
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    self._keep(socket.socket(fileno=os.dup(int(name))), wanted)

    def _keep(self, connection: socket.socket, wanted: set[str]) -> None:
        try:
            if connection.family == socket.AF_UNIX and connection.getpeername() in wanted:
                self._sockets.append(connection)
                return
        except OSError:  # not connected
            pass
        connection.close()

    def close(self, deadline: float) -> None:
        """Wait until the peers have read everything, or until `deadline` (monotonic); then let go."""
        while any(map(_unread, self._sockets)) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
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
