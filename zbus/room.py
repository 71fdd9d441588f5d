"""Room: how much may queue in the SUB socket of one channel, in events and in bytes.

libzmq counts frames. So a queue of large ones is narrowed to a few frames once it holds half of the bytes
that it may, until the reader has emptied it. How many bytes it holds is what publishers announce (see
`notices`) less what was read.

libzmq applies a changed high-water mark to a living pipe, but it can stop that pipe for good (all of this
seen at 4.3.5): the writer counts what it has not yet been told was read, and the reader tells only at
multiples of half the mark. So

- the mark is lowered only while frames wait, and to a value at which each read is told;
- it is raised only when nothing waits, and lowered again if something arrives before the writer knows;
- an inproc pipe never goes below the sum of what its two ends had when it was connected: that is few.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.backend import zmq_poll

from .wire import CONTROL, FILLER, LARGE_BYTES

__all__ = ["Room"]

# Frames that queue while it is narrow: one of the forwarder's end, the others of the channel's.
_NARROW_EVENTS = 4
# What a small frame takes in memory at least, of a hundred bytes (measured).
_LEAST_BYTES = 256
_SETTLE_MS = 20
_LOOK_EVERY = 16


class Room:
    """The room of one channel. But for `pending`, used under the lock of the inlet.

    Attributes:
        socket: of the channel.
        narrow: whether the queue is narrowed.
        capacity: how many frames queue at most.
    """

    def __init__(self, socket: zmq.Socket[bytes], capacity: int, capacity_bytes: int) -> None:
        """Prepare a socket that is about to be connected."""
        self.capacity = max(1, min(capacity, capacity_bytes // _LEAST_BYTES))
        self.narrow = False
        self.socket = socket
        self._recv: Callable[[int], bytes] = super(zmq.Socket, socket).recv
        self._limit = capacity_bytes // 2
        self._wide = self.capacity - _NARROW_EVENTS + 1
        self._announced = 0  # only who announces writes this one, and only the reader the other
        self._read = 0
        self._reads = 0
        socket.rcvhwm = max(1, min(self.capacity, _NARROW_EVENTS) - 1)

    def open(self) -> None:
        """Take the whole capacity, once the socket is connected and before it subscribes."""
        if self._wide > 1:
            self.socket.rcvhwm = self._wide

    @property
    def pending(self) -> int:
        """How many bytes of large frames were announced and not read."""
        return self._announced - self._read

    @property
    def idle(self) -> bool:
        """Whether nothing has to be counted."""
        return not self.narrow and self.pending <= 0

    @property
    def over(self) -> bool:
        """Whether it is time to narrow the queue."""
        return not self.narrow and self.pending > self._limit

    def announce(self, size: int) -> None:
        """Note that so many bytes of large frames are about to come."""
        self._announced += size

    def recv(self, flags: int) -> bytes:
        """Receive as the socket does, and count."""
        if self.narrow and not flags & zmq.NOBLOCK and not self._waiting():
            self._widen()
        try:
            while (frame := self._recv(flags))[:1] == CONTROL and frame.endswith(FILLER):
                pass
        except zmq.Again:
            self._read = self._announced
            raise
        if len(frame) > LARGE_BYTES:
            self._read += len(frame)
        self._reads += 1
        if not self._reads % _LOOK_EVERY and not self._waiting():
            self._read = self._announced
        return frame

    def look(self) -> None:
        """See whether the queue is empty, or has to be narrowed, or may be what it was."""
        if not self._waiting():
            self._announced = self._read
            if self.narrow:
                self._widen()
        elif self.over and self._wide > 1:
            self.socket.rcvhwm = 1
            self.narrow = True

    def _waiting(self) -> bool:
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _widen(self) -> None:
        """Take the whole capacity again, unless something arrives meanwhile."""
        self.socket.rcvhwm = self._wide
        if zmq_poll([(self.socket, zmq.POLLIN)], _SETTLE_MS):
            self.socket.rcvhwm = 1
        else:
            self.narrow = False
