"""A channel: where a subscriber's events arrive, in order, filtered and counted.

It wraps a SUB socket on the forwarder's inproc side. ZeroMQ has compared prefixes; here a verdict is
kept for each stream, numbers are checked for holes, and fields are decoded. One lock makes the receiving
of a frame and its accounting one step, so that several threads may share a channel.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import NoReturn

import orjson
import zmq
from zmq.backend import zmq_poll

from .errors import Canceled, Timeout
from .event import Event, Gap
from .loss import Stream, Streams
from .patterns import Matcher
from .timeouts import check_timeout, milliseconds
from .wire import Malformed, decode

__all__ = ["Channel"]

log = logging.getLogger("zbus")

_GAPS_KEPT = 1000
_LOG_INTERVAL = 5.0
# How long `close` waits for a receiver in another thread to notice, which takes microseconds. It must not
# wait for ever: in a signal handler the receiver is this very thread.
_CLOSE_SECONDS = 0.2


class Channel:
    """The receiving end of a subscription. Any thread may use it, several at once share its events.

    Attributes:
        system, kind: the patterns as given; `kind` is `None` for no filter.
        overflow: what a full queue does, `"drop"` or `"block"`.
        lost: how many events a full queue dropped so far.
        malformed: how many frames were skipped because they break the wire format.
        gaps: the latest gaps, at most 1,000, oldest first.
    """

    def __init__(
        self,
        system: Matcher,
        kind: Matcher | None,
        overflow: str,
        capacity: int,
        on_gap: Callable[[Gap], object] | None,
    ) -> None:
        """Made by `Bus.subscribe`, which then calls `_attach`."""
        self.system = system.pattern
        self.kind = None if kind is None else kind.pattern
        self.overflow = overflow
        self.capacity = capacity
        self.lost = 0
        self.malformed = 0
        self.gaps: deque[Gap] = deque(maxlen=_GAPS_KEPT)
        self._on_gap = on_gap
        self._untold: deque[Gap] = deque()
        self._logged = -inf
        self._unlogged = 0
        self._ready: deque[Event] = deque()
        self._lock = threading.Lock()
        self._streams = Streams(
            lambda s, k: system.matches(s) and (kind is None or kind.matches(k)),
        )
        self._stream = Stream((b"", b"", b""), False, 0)
        self._closing = False
        self._finished = False
        self._socket: zmq.Socket[bytes]
        self._recv: Callable[[], bytes]
        self._barrier = b""
        self._detach: Callable[[Channel], None]
        self._wake: Callable[[bytes], None]

    def _attach(
        self,
        socket: zmq.Socket[bytes],
        barrier: bytes,
        wake: Callable[[bytes], None],
        detach: Callable[[Channel], None],
    ) -> None:
        """Take over `socket`; `wake` sends it its barrier, `detach` tells the bus that this channel closes."""
        self._socket = socket
        self._recv = super(zmq.Socket, socket).recv
        self._barrier = barrier
        self._wake = wake
        self._detach = detach

    def _joined(self, now: int) -> None:
        """Note the time (CLOCK_MONOTONIC, microseconds) from which every publisher counts this channel in."""
        self._streams.joined(now)

    def __iter__(self) -> Iterator[Event]:
        """Yield events until the channel is closed and drained.

        The fastest way to receive: no time-out to look after, so the thread sleeps within libzmq.
        """
        acquire, release, ready, decode = self._lock.acquire, self._lock.release, self._ready, self._decode
        while True:
            acquire()
            try:
                evt = None
                while evt is None:
                    evt = ready.popleft() if ready else decode(self._recv())
            except zmq.ZMQError as error:
                self._check_finished(error)
                return
            finally:
                release()
                if self._untold:
                    self._tell()
            yield evt

    def receive(self, timeout: float | None = None) -> tuple[Event, bool] | tuple[None, bool]:
        """Return `(event, True)`, or `(None, False)` once the channel is closed and drained.

        Args:
            timeout: seconds to wait for an event; `None` is for ever, 0 takes only what is there.

        Raises:
            Timeout: (a `TimeoutError`) nothing arrived in time. Retryable; nothing is lost.
            Canceled: the bus belongs to the parent of this forked process.
        """
        patience = check_timeout(timeout)
        deadline = time.monotonic() + patience
        if not self._lock.acquire(timeout=min(patience, threading.TIMEOUT_MAX)):
            self._expired(patience)
        try:
            while not self._ready and not self._finished:
                self._take(deadline, patience)
            return (self._ready.popleft(), True) if self._ready else (None, False)
        finally:
            self._lock.release()
            if self._untold:
                self._tell()

    def _take(self, deadline: float, patience: float) -> None:
        """Move what the next frame holds into `_ready`, waiting for one until `deadline`."""
        if deadline != inf and not self._closing:
            # A poll costs 1.3 us, but unlike an empty recv it raises nothing (3 us) and it survives signals.
            left = max(0.0, deadline - time.monotonic())
            if not zmq_poll([(self._socket, zmq.POLLIN)], milliseconds(left)):
                self._expired(patience)
        try:
            evt = self._decode(self._recv())
        except zmq.ZMQError as error:
            self._check_finished(error)
            return
        if evt is not None:
            self._ready.append(evt)

    def _expired(self, patience: float) -> NoReturn:
        raise Timeout(f"no event within {patience:g} s", timeout=patience)

    def _check_finished(self, error: zmq.ZMQError) -> None:
        if not self._finished and not isinstance(error, zmq.ContextTerminated):
            raise Canceled(f"the channel's socket failed: {error.strerror}") from error

    def _decode(self, frame: bytes) -> Event | None:
        """Return the event in `frame`; `None` if there is none for us or they were put into `_ready`.

        The short cut for what comes a million times: one JSON event of a known stream, the number that
        is due. All else goes the long way.
        """
        try:
            system, kind, path, stamp, data = frame.split(b"\0", 5)
            origin, digits, _ = stamp.split(b".", 2)
            stream = self._stream
            # Three comparisons cost 75 ns, the look-up 190: most streams come in runs.
            if origin != stream.origin_key or kind != stream.kind_key or system != stream.system_key:
                known = self._streams.find((system, kind, origin))
                if known is None:
                    return self._decode_any(frame)
                self._stream = stream = known
            if not stream.wanted:
                return None
            seq = int(digits)
            if seq != stream.next or not path or not digits.isdigit():
                return self._decode_any(frame)
            evt = _new(Event)
            evt.data = _loads(data) if data else None
            evt.path = path.decode()
            evt.system = stream.system
            evt.kind = stream.kind
            evt.origin = stream.origin
            evt.seq = seq
            stream.next = seq + 1
            return evt
        except ValueError:  # other than five fields, or one that does not parse
            return self._decode_any(frame)

    def _decode_any(self, frame: bytes) -> None:
        if frame == self._barrier:
            return
        try:
            decoded = decode(frame)
        except Malformed as error:
            self.malformed += 1
            self._warn(f"skipped a malformed frame ({error})")
            return
        system, kind, origin, seq, born, items = decoded
        key = (system.encode(), kind.encode(), origin.encode())
        stream = self._streams.find(key) or self._streams.add(key, seq, born)
        if origin:
            gap = stream.jump(seq) if seq != stream.next else None
            stream.next = seq + len(items)
            if gap is not None:
                self._note(gap)
        if stream.wanted:
            step = 1 if origin else 0
            self._ready.extend(
                Event(system, kind, path, data, origin, seq + step * index)
                for index, (path, data) in enumerate(items)
            )

    def _note(self, gap: Gap) -> None:
        self.lost += gap.count
        self.gaps.append(gap)
        self._untold.append(gap)

    def _tell(self) -> None:
        """Report gaps, outside the lock: the callback may use the channel."""
        while self._untold:
            gap = self._untold.popleft()
            self._warn(
                f"lost {gap.count} events of {gap.system}/{gap.kind} from {gap.origin}, {gap.first} to {gap.last}"
            )
            if self._on_gap is not None:
                self._on_gap(gap)

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._logged < _LOG_INTERVAL:
            self._unlogged += 1
            return
        more = f"; {self._unlogged} like it since the last report" if self._unlogged else ""
        self._logged, self._unlogged = now, 0
        log.warning("channel %s %s: %s%s", self.system, self.kind or "*", message, more)

    def close(self) -> None:
        """Stop new events. What is buffered stays receivable; a blocked receiver wakes; twice is fine."""
        if self._closing:
            return
        self._closing = True
        # A receiver comes by here before it waits again; one that waits now gets its barrier.
        self._recv = self._finish
        self._wake(self._barrier)
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            try:
                if not self._finished:
                    self._drain()
            finally:
                self._lock.release()
        self._detach(self)

    def _finish(self) -> bytes:
        """Stand in for `recv` once the channel closes: drain, then fail as a closed socket does."""
        if not self._finished:
            self._drain()
            return self._barrier
        raise zmq.ZMQError(zmq.ENOTSOCK)

    def _drain(self) -> None:
        """Move what has arrived into `_ready` and let go of the socket. Under the lock."""
        recv = super(zmq.Socket, self._socket).recv
        try:
            for _ in range(self.capacity + 1):
                evt = self._decode(recv(zmq.NOBLOCK))
                if evt is not None:
                    self._ready.append(evt)
        except zmq.ZMQError:
            pass  # empty
        self._finished = True
        self._socket.close()

    def _disown(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""

        def refuse() -> bytes:
            raise Canceled(reason)

        self._closing, self._finished = True, False
        self._lock = threading.Lock()
        self._ready = deque()
        self._recv = refuse


_new = object.__new__
_loads = orjson.loads
