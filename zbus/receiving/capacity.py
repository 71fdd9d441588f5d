"""Capacity: how much may queue in the SUB socket of one channel, in events and in bytes.

libzmq bounds a queue in frames, not in bytes. So once a queue holds half of the bytes it may hold, it is
narrowed to a few frames until the reader has emptied it. The bytes it holds are those that publishers
announced (see `notices`) minus those that were read.

libzmq applies a changed high-water mark to a living pipe, but that can stop the pipe for good (seen with
4.3.5). The writer counts frames as unread until the reader reports them, which it does every half of the
former mark. A reader that has read everything reports nothing more. So a narrowed queue that is empty is
replaced: the socket disconnects and connects again. With a blocking forwarder that is not needed: it keeps
trying, and continues when the mark rises.

The mark of an inproc pipe never drops below what its two ends had when they connected. So they connect with
a low mark, which is raised at once.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from ..protocol.wire import CONTROL, FILLER, LARGE_BYTES
from ..runtime.malloc_trim import note_large_bytes

__all__ = ["Capacity"]

# Frames that may queue while it is narrowed: one at the forwarder's end, the others at the channel's.
_NARROW_EVENTS = 4
# The memory that a frame of a hundred bytes takes at least (measured).
_LEAST_BYTES = 256
_LOOK_EVERY = 16


class Capacity:
    """The bounds of one channel's queue. Hold the lock of the `SocketQueue`, except for `pending`.

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
        self._announced = 0  # written by the announcing thread only, `_read` by the reader only
        self._read = 0
        self._unsure = 0
        self._reads = 0
        self._back = back
        self._blocking = blocking

    def open(self) -> None:
        """Connect the socket with its whole capacity."""
        self.socket.rcvhwm = max(1, min(self.events, _NARROW_EVENTS) - 1)
        self.socket.connect(self._back)
        if self._wide > 1:
            self.socket.rcvhwm = self._wide

    @property
    def pending(self) -> int:
        """How many bytes of large frames were announced and not read yet."""
        return self._announced - self._read

    @property
    def idle(self) -> bool:
        """Whether no large frames are about, so nothing has to be counted."""
        return not self.narrowed and self.pending <= 0

    @property
    def over_limit(self) -> bool:
        """Whether it is time to narrow the queue."""
        return not self.narrowed and self.pending > self._limit + min(self._unsure, self._limit)

    def announce(self, size: int, *, counts: bool) -> None:
        """Note that so many bytes of large frames are about to arrive.

        If reading was not counted until now (`counts`), some of them may have been read already.
        """
        if not counts:
            self._unsure = size
        self._announced += size

    def recv(self, flags: int) -> bytes:
        """Receive a frame as the socket does, and count its bytes."""
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
        """Give a narrowed queue its whole capacity back if it is empty."""
        if self.narrowed and not self._waiting():
            self.narrowed = False
            if self._blocking:
                self.socket.rcvhwm = self._wide
                return
            self.socket.disconnect(self._back)
            self.open()

    def adjust(self) -> None:
        """Narrow the queue if it holds too many bytes, or widen it if it is empty."""
        if not self._waiting():
            self._announced, self._unsure = min(self._read, self._announced), 0
            self.widen_if_empty()
        elif self.over_limit and self._wide > 1:
            self.socket.rcvhwm = 1
            self.narrowed = True

    def _waiting(self) -> bool:
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
