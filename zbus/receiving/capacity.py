"""Capacity: how much may queue in the SUB socket of one channel, in events and in bytes.

libzmq counts frames. So a queue of large ones is narrowed to a few frames once it holds half of the bytes
that it may, until the reader has emptied it. How many bytes it holds is what publishers announce (see
`notices`) less what was read.

libzmq applies a changed high-water mark to a living pipe, but it can stop that pipe for good (all of this
seen at 4.3.5): the writer counts what it has not yet been told was read, up to half the former mark, and a
reader that has read everything tells nothing more. So a queue that was narrowed and is empty is made anew:
the socket is connected once more. A forwarder that blocks never gives a pipe up, and goes on when the mark
rises.
An inproc pipe never goes below the sum of what its two ends had when it was connected: that is few.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from ..protocol.wire import CONTROL, FILLER, LARGE_BYTES
from ..runtime.malloc_trim import note_large_bytes

__all__ = ["Capacity"]

# Frames that queue while it is narrow: one of the forwarder's end, the others of the channel's.
_NARROW_EVENTS = 4
# What a small frame takes in memory at least, of a hundred bytes (measured).
_LEAST_BYTES = 256
_LOOK_EVERY = 16


class Capacity:
    """The capacity of one channel's queue. But for `pending`, used under the lock of the `SocketQueue`.

    Attributes:
        socket: of the channel.
        narrowed: whether the queue is narrowed.
        events: how many frames queue at most.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], back: str, capacity: int, capacity_bytes: int, *, blocking: bool
    ) -> None:
        """Prepare a socket that is about to be connected to `back`."""
        self.events = max(1, min(capacity, capacity_bytes // _LEAST_BYTES))
        self.narrowed = False
        self.socket = socket
        self._recv: Callable[[int], bytes] = super(zmq.Socket, socket).recv
        self._limit = capacity_bytes // 2
        self._wide = self.events - _NARROW_EVENTS + 1
        self._announced = 0  # only who announces writes this one, and only the reader the other
        self._read = 0
        self._unsure = 0
        self._reads = 0
        self._back = back
        self._blocking = blocking

    def open(self) -> None:
        """Connect the socket, and take the whole capacity."""
        self.socket.rcvhwm = max(1, min(self.events, _NARROW_EVENTS) - 1)
        self.socket.connect(self._back)
        if self._wide > 1:
            self.socket.rcvhwm = self._wide

    @property
    def pending(self) -> int:
        """How many bytes of large frames were announced and not read."""
        return self._announced - self._read

    @property
    def idle(self) -> bool:
        """Whether nothing has to be counted."""
        return not self.narrowed and self.pending <= 0

    @property
    def over_limit(self) -> bool:
        """Whether it is time to narrow the queue."""
        return not self.narrowed and self.pending > self._limit + min(self._unsure, self._limit)

    def announce(self, size: int, *, counts: bool) -> None:
        """Note that so many bytes of large frames are about to come.

        Unless it `counts` already, some of them may have been read.
        """
        if not counts:
            self._unsure = size
        self._announced += size

    def recv(self, flags: int) -> bytes:
        """Receive as the socket does, and count."""
        if self.narrowed:
            self.widen_if_empty()
        try:
            while (frame := self._recv(flags))[:1] == CONTROL and frame.endswith(FILLER):
                pass
        except zmq.Again:
            self._read = max(self._read, self._announced)
            raise
        if len(frame) > LARGE_BYTES:
            self._read += len(frame)
            note_large_bytes(len(frame))
        self._reads += 1
        if not self._reads % _LOOK_EVERY and not self._waiting():
            self._read = max(self._read, self._announced)
        return frame

    def widen_if_empty(self) -> None:
        """Take the whole capacity again if the queue is empty."""
        if self.narrowed and not self._waiting():
            self.narrowed = False
            if self._blocking:
                self.socket.rcvhwm = self._wide
                return
            self.socket.disconnect(self._back)
            self.open()

    def adjust(self) -> None:
        """See whether the queue is empty, or has to be narrowed, or may be what it was."""
        if not self._waiting():
            self._announced, self._unsure = min(self._read, self._announced), 0
            self.widen_if_empty()
        elif self.over_limit and self._wide > 1:
            self.socket.rcvhwm = 1
            self.narrowed = True

    def _waiting(self) -> bool:
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
