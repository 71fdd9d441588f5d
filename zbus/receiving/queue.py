"""The SUB socket of one channel, from its join to its end.

Receivers take frames under its lock. Any thread or signal handler may close it: it replaces `recv` by one
that first copies what has arrived and then closes the socket, and it sends the socket its barrier, which
wakes a receiver that waits. The thread that has the lock then does the rest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Canceled
from ..runtime.locks import Lock
from .capacity import Capacity

__all__ = ["WAIT_MS", "Ended", "SocketQueue"]

WAIT_MS = 1000
"""How long to wait in C at most. A signal that arrives just before such a wait does not end it, and its
handler (Ctrl-C, for example) only runs when Python code runs."""

# How long `close` waits for a receiver in another thread to notice. As a rule that takes microseconds.
_CLOSE_SECONDS = 0.2

# For `close`: copying a frame of this size takes longer than keeping it (measured), and how many bytes of
# such frames are copied before it stops copying.
_SMALL_BYTES = 8192
_LARGE_BYTES = 1 << 20

# How long `adjust` waits for the lock, which a receiver holds while it has nothing to receive. And when to
# adjust again, while the queue is narrowed and while reading is counted.
_LOOK_SECONDS = 0.02
_NARROW_SECONDS, _COUNTED_SECONDS = 0.05, 1.0


def _nothing(*_: object) -> None:
    """Replaces a callback that must not be called twice."""


class Ended(Exception):
    """The channel is closed and drained."""


class SocketQueue:
    """Frames for one channel, until it is closed.

    Attributes:
        lock: hold it to call `recv` or to wait for the handle.
        recv: takes zmq flags and returns the next frame, or raises `zmq.ZMQError` or `Ended`. It is replaced
            while large frames are counted, for a frame that is sampled or was looked at, and at the end.
        handle: the socket, to be polled, unless a frame is `held`.
        held: the next frame, if it was taken out of the socket only to look at it.
        closing: whether `close` was called.
        capacity: its bounds.
        marks_at_end: returns the marks that are to follow what has arrived when it is closed.
    """

    def __init__(
        self,
        capacity: Capacity,
        wake: Callable[[], None],
        on_closed: Callable[[SocketQueue], None],
    ) -> None:
        """Take over the socket of `capacity`; `recv` waits for `WAIT_MS` at most.

        Args:
            wake: sends the socket its barrier.
            on_closed: called once when the socket is closed.
        """
        self.lock = Lock()
        self.handle = capacity.socket
        self.handle.rcvtimeo = WAIT_MS
        self._recv: Callable[[int], bytes] = super(zmq.Socket, self.handle).recv
        self.recv: Callable[[int], bytes] = self._sampled
        self.capacity = capacity
        self.closing = False
        self._switch = Lock()  # of `recv`, which three threads replace
        self._sampling = True
        self._sample: tuple[bytes, float] | None = None
        self.held: bytes | None = None
        self._afterwards: Callable[[int], bytes] = self._sampled  # what receives once the held frame is taken
        self._inherited = False
        self._wake = wake
        self._on_closed = on_closed
        self._frames: deque[bytes | zmq.Frame] = deque()  # that had arrived when it was closed
        self.marks_at_end: Callable[[], list[bytes]] = list

    def close(self) -> None:
        """Stop new frames; what is buffered stays receivable; a blocked receiver wakes; twice is fine."""
        if self._inherited:
            return
        self.closing = True
        # A receiver takes this before it waits again; one that waits now gets the barrier.
        self.recv = self._buffered
        self._wake()
        if self.lock.held():
            return  # this is a signal handler, and the receiver that it interrupted does the rest
        self.lock.run(self._drain, _CLOSE_SECONDS)

    def _buffered(self, _: int = 0) -> bytes:
        """Replace `recv` when the queue closes."""
        self._drain()
        if not self._frames:
            raise Ended
        frame = self._frames.popleft()
        return frame if isinstance(frame, bytes) else frame.bytes

    def _drain(self) -> None:
        """Keep what has arrived, close the socket, and call `on_closed`. Hold the lock."""
        if not self.handle.closed:
            marks = self.marks_at_end()  # first, so that nothing they tell of is still on its way
            if self.held is not None:
                self._frames.append(self.held)
                self.held = None
            with suppress(zmq.ZMQError):  # empty
                self._take_all()
            self._frames.extend(marks)
            self.handle.close()
        # Last, so that an interrupt leaves it to the next close. The callbacks are dropped too: they refer to
        # the node, which may end before this queue does.
        self._on_closed(self)
        self._on_closed = self._wake = _nothing
        self.marks_at_end = list

    def _take_all(self) -> None:
        """Take what is queued out of the socket.

        Copying a small frame takes 250 ns, and keeping ZeroMQ's own 600. But copying many large frames takes
        seconds, and memory. The size of a frame is known only after it was received one way or the other. So
        frames are copied until `_LARGE_BYTES` of large ones have been, and kept from then on.
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
        """Count what is received from now on: `size` bytes of large frames are about to arrive."""
        self.capacity.announce(size, counts=self.counts)
        self._receive_by(self._counted)

    def adjust(self, announced: bool) -> float:
        """Keep the queue within its bytes; return the seconds after which to call this again, or 0."""
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
        """Give a narrowed queue its whole capacity back if it is empty. Hold the lock."""
        if not self.handle.closed:
            self.capacity.widen_if_empty()

    def sample(self) -> tuple[bytes, float] | None:
        """Return a frame that was taken since the last call, and when, in seconds since the epoch.

        It is the first one after the call before. So receiving takes a microsecond more once, and nothing
        otherwise.
        """
        found, self._sample = self._sample, None
        self._sampling = True
        self._receive_by(self._sampled, instead_of=self._recv)
        return found

    def peek(self) -> bytes | None:
        """Return the next frame, if there is one, and leave it the next to be taken. Hold the lock.

        libzmq cannot do that, so the frame is taken and held.
        """
        if self.held is None and not self.closing and self.waits():
            recv = self.capacity.recv if self.counts else self._recv
            with suppress(zmq.ZMQError):
                self._hold(recv(zmq.NOBLOCK))
        return self.held

    def _hold(self, frame: bytes) -> None:
        with self._switch:
            self._afterwards, self.held = self.recv, frame
            if not self.closing:
                self._replace(self._take_held)

    def _take_held(self, flags: int = 0) -> bytes:
        """Replace `recv` while a frame is held."""
        frame, self.held = self.held, None
        self._receive_by(self._afterwards, instead_of=self._take_held)
        return self.recv(flags) if frame is None else frame  # an interrupt may have come between the two

    def waits(self) -> bool:
        """Return whether a frame waits. Hold the lock."""
        if self.held is not None:
            return True
        if self.handle.closed:
            return bool(self._frames)
        return bool(int(self.handle.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    @property
    def counts(self) -> bool:
        """Whether it counts what is received, because large frames are about."""
        return (self.recv if self.held is None else self._afterwards) == self._counted

    def _adjust(self) -> None:
        if not self.handle.closed:
            self.capacity.adjust()

    def _counted(self, flags: int = 0) -> bytes:
        """Replace `recv` while large frames are about."""
        frame = self.capacity.recv(flags)
        if self._sampling:
            self._keep(frame)
        return frame

    def _sampled(self, flags: int = 0) -> bytes:
        """Replace `recv` for one frame."""
        frame = self._recv(flags)
        self._keep(frame)
        self._receive_by(self._recv, instead_of=self._sampled)
        return frame

    def _keep(self, frame: bytes) -> None:
        self._sampling, self._sample = False, (frame, time.time())

    def _receive_by(
        self, recv: Callable[[int], bytes], *, instead_of: Callable[[int], bytes] | None = None
    ) -> None:
        with self._switch:
            if self.held is not None:
                if instead_of in (None, self._afterwards):
                    self._afterwards = recv
            elif not self.closing and instead_of in (None, self.recv):
                self._replace(recv)

    def _replace(self, recv: Callable[[int], bytes]) -> None:
        self.recv = recv
        if self.closing and not self._inherited:  # another thread has closed it meanwhile
            self.recv = self._buffered

    def after_fork_in_child(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""

        def refuse(_: int = 0) -> bytes:
            raise Canceled(reason)

        self.closing = self._inherited = True
        self.lock = Lock()
        self.recv = refuse
