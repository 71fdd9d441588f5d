"""The SUB socket of one channel, from its join to its end.

Receivers take frames under its lock. To close it, any thread (or signal handler) swaps `recv` for what is
buffered and sends the socket its barrier, which wakes a receiver; whoever has the lock then keeps what had
arrived, and lets go of the socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Canceled
from ..runtime.locks import Lock
from .capacity import Capacity

__all__ = ["WAIT_MS", "Ended", "SocketQueue"]

WAIT_MS = 1000
"""How long to wait in C at most. A signal that comes just before such a wait does not end it, and its handler
(that of Ctrl-C, for example) only runs when Python code does."""

# How long `close` waits for a receiver in another thread to notice, which takes microseconds.
_CLOSE_SECONDS = 0.2

# What `close` takes over: from this size on, copying a frame takes longer than keeping it (measured).
# So many bytes of such frames are copied before it stops copying.
_SMALL_BYTES = 8192
_LARGE_BYTES = 1 << 20

# How long a look at the queue waits for a receiver in another thread: one that has nothing to receive holds
# the lock for longer. And when to look again.
_LOOK_SECONDS = 0.02
_NARROW_SECONDS, _COUNTED_SECONDS = 0.05, 1.0


def _nothing(*_: object) -> None:
    """Stand in for what is done once."""


class Ended(Exception):
    """Closed and drained."""


class SocketQueue:
    """Frames for one channel, until it is closed.

    Attributes:
        lock: held by whoever calls `recv` or waits for the handle.
        recv: takes zmq flags; returns the next frame, or raises `zmq.ZMQError`, or `Ended`.
        handle: what to poll for it.
        closing: whether `close` was called.
        capacity: how much may queue.
    """

    def __init__(
        self,
        capacity: Capacity,
        wake: Callable[[], None],
        on_closed: Callable[[SocketQueue], None],
    ) -> None:
        """Take over the socket of `capacity`; `recv` waits for `WAIT_MS` at most.

        `wake` sends it its barrier, `on_closed` tells the bus that it is closed.
        """
        self.lock = Lock()
        self.handle = capacity.socket
        self.handle.rcvtimeo = WAIT_MS
        self._recv: Callable[[int], bytes] = super(zmq.Socket, self.handle).recv
        self.recv: Callable[[int], bytes] = self._recv
        self.capacity = capacity
        self.closing = False
        self._inherited = False
        self._wake = wake
        self._on_closed = on_closed
        self._frames: deque[bytes | zmq.Frame] = deque()  # what had arrived when it was closed

    def close(self) -> None:
        """Stop new frames; what is buffered stays receivable; a blocked receiver wakes; twice is fine."""
        if self._inherited:
            return
        self.closing = True
        # A receiver comes by here before it waits again; one that waits now gets its barrier.
        self.recv = self._buffered
        self._wake()
        if self.lock.held():
            return  # a signal handler: the receiver it interrupted is the one that wakes
        self.lock.run(self._drain, _CLOSE_SECONDS)

    def _buffered(self, _: int = 0) -> bytes:
        """Stand in for `recv` once it closes."""
        self._drain()
        if not self._frames:
            raise Ended
        frame = self._frames.popleft()
        return frame if isinstance(frame, bytes) else frame.bytes

    def _drain(self) -> None:
        """Keep what has arrived, let go of the socket, and tell the bus. Under the lock."""
        if not self.handle.closed:
            with suppress(zmq.ZMQError):  # empty
                self._take_all()
            self.handle.close()
        # Only then is it done: an interrupt leaves the rest to the next close. Let go of the bus too, so that
        # it may end before this does.
        self._on_closed(self)
        self._on_closed = self._wake = _nothing

    def _take_all(self) -> None:
        """Take over what is queued, large frames as ZeroMQ holds them: copying all takes seconds, and memory.

        Copying a small frame takes 250 ns, keeping it 600. But the size is known only once it is done. So all
        are copied until `_LARGE_BYTES` of large ones have been.
        """
        recv = super(zmq.Socket, self.handle).recv
        left = _LARGE_BYTES
        for _ in range(self.capacity.events + 1):
            if left <= 0:
                self._frames.append(recv(zmq.NOBLOCK, False))
                continue
            frame = recv(zmq.NOBLOCK)
            self._frames.append(frame)
            if len(frame) > _SMALL_BYTES:
                left -= len(frame)

    def announce(self, size: int) -> None:
        """Count what is received from now on: `size` bytes of large frames are about to come."""
        self.capacity.announce(size, counts=self.counts)
        self._receive_by(self._counted)

    def adjust(self, announced: bool) -> float:
        """Keep the queue within its bytes; return the seconds after which to look again, or 0."""
        capacity = self.capacity
        if not self.counts:
            return 0.0
        if capacity.narrowed or capacity.over_limit or not announced:
            self.lock.run(self._adjust, _LOOK_SECONDS)
        if capacity.idle and not announced:
            self._receive_by(self._recv)
            return 0.0
        return _NARROW_SECONDS if capacity.narrowed else _COUNTED_SECONDS

    def widen_if_empty(self) -> None:
        """See whether it is. Under the lock, as `recv`."""
        if not self.handle.closed:
            self.capacity.widen_if_empty()

    @property
    def counts(self) -> bool:
        """Whether it counts what is received, since large frames are about."""
        return self.recv == self._counted

    def _adjust(self) -> None:
        if not self.handle.closed:
            self.capacity.adjust()

    def _counted(self, flags: int = 0) -> bytes:
        """Stand in for `recv` while large frames are about."""
        return self.capacity.recv(flags)

    def _receive_by(self, recv: Callable[[int], bytes]) -> None:
        if not self.closing:
            self.recv = recv
            if self.closing and not self._inherited:  # meanwhile, by another thread
                self.recv = self._buffered

    def after_fork_in_child(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""

        def refuse(_: int = 0) -> bytes:
            raise Canceled(reason)

        self.closing = self._inherited = True
        self.lock = Lock()
        self.recv = refuse
