"""Handing over: what `send` accepted reaches the peers' processes before the publisher lets go of them.

libzmq alone would lose the end of a stream when a subscriber is slow, in two places (read in its source at
v4.3.5): a closing session drops the batch that its engine could not write yet, and an engine whose queue is
full, on seeing the connection end, drops what the kernel still holds. So a closing publisher

1. sends each link one control frame that is larger than a batch: it is the one to be dropped;
2. keeps a duplicate of each connection's descriptor while libzmq closes its own, until the kernel says
   that the peer has read everything.
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

import zmq

from .timeouts import milliseconds

__all__ = ["Connections", "pad"]

_LOOK_SECONDS = 0.001
_PAD_BYTES = 16_384  # libzmq writes batches of at most 8,192


def pad(lane: zmq.Socket[bytes], topics: Iterable[bytes], deadline: float) -> None:
    """Put something last in the queue of each peer that may be lost, waiting for room until `deadline`.

    `topics` are control topics that a single peer each subscribes to; `deadline` is monotonic time.
    """
    lane.setsockopt(zmq.XPUB_NODROP, 1)
    with suppress(zmq.Again):
        for topic in topics:
            lane.sndtimeo = milliseconds(max(0.0, deadline - time.monotonic()))
            lane.send(topic.ljust(_PAD_BYTES, b"\xff"))


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
