"""Coalescing: events that follow each other quickly travel as one frame, a batch.

An event is *held* if the event before it had the same topic and came just before: then many more are likely
to come. Every other event goes at once, after what is held.

    send ─► topic of the event before, and soon after it? ─► its row is held ─► 128 rows, 64 KiB,
              │ no                                                              `coalesce` seconds,
              ▼                                                                 flush, close, exit
            what is held goes, then this event                                   └─► one frame, a batch

Numbers are given when the batch goes, and the token is compared then. So whoever has joined by the time an
event is held gets it.

Rows are added without a lock, which would cost 150 ns: CPython lets other threads and interrupts in only
between two calls. Everything else happens under the lock of the publisher. An interrupt must neither lose
what is held nor send it twice. So each step of a batch is noted, and whoever comes next takes those that are
left; see also `message`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from sys import getrefcount
from typing import Any, Protocol

import orjson
import zmq

from ..errors import Error, Unavailable
from ..options import DEFAULT
from ..protocol.exact import Fragment, known_references
from ..protocol.marks import Topic
from ..protocol.patterns import ALIKE, plain
from ..protocol.rows import MAX_ROWS, SEPARATOR, batch_of, check_row, event_of, maybe_deep, room_for
from ..runtime import housekeeping
from ..runtime.locks import Lock
from ..runtime.reports import report
from .attempts import Unsent
from .links import Full
from .message import Message
from .sockets import WOULD_BLOCK
from .streams import Streams

__all__ = ["BEHIND", "HELD", "MIN_ROOM", "Coalescer", "EmitHeld", "Holding"]

HELD: Any = object()
"""The event is held."""

BEHIND: Any = object()
"""The event must go the long way, behind what is held; apart from that, the timeout is the bus's own."""

MIN_ROOM = 64
"""A batch with less room than this, in bytes, goes at once."""

# An event is held if the one before it is younger than this share of `coalesce`: then a batch of so many rows
# is to be expected.
_EXPECTED_ROWS = 20
_CLOSED: Any = (object(), object())  # no topic: no name is one of these objects
# How often to try again to send what could not go, and how long to wait for the lock.
_RETRY_SECONDS = 0.01
_LOCK_SECONDS = 0.02
_PAUSE_SECONDS = 0.001
# The steps of a batch on its way: none, given to the `block` subscribers, given to the others.
_BLOCK, _DROP = 1, 2

# Why what is held may have to stay for now: no room, somebody joins, or the machine refuses something, for
# example one more connection.
_REFUSED = (*WOULD_BLOCK, Full, Error, OSError, zmq.ZMQError)

_dumps = orjson.dumps
_monotonic = time.monotonic
_references = getrefcount
_SEPARATOR = SEPARATOR
_Fragment = Fragment


EmitHeld = Callable[[bytes, Topic, int], None]
"""Takes a frame, its topic, and how many events are in it; gives the frame to the sockets and counts them."""


class Holding(Protocol):
    """What a coalescer needs of its publisher; see `Publisher`."""

    lock: Lock
    sending: bool
    token: memoryview
    settled_token: int
    streams: Streams
    current: dict[str, dict[str, Topic]]
    block: Callable[..., object] | None
    drop: Callable[..., object] | None

    def give_way(self) -> None:
        """Let another thread send."""

    def force(self, frame: bytes) -> None:
        """Send a frame that a `drop` subscriber had no room for to all others."""

    def transmit(self, unsent: Unsent, emit_held: EmitHeld) -> None:
        """Send a frame by `emit_held`; raise `zmq.Again` or `Full` if that is not possible now."""


class Coalescer:
    """What one publisher holds.

    Attributes:
        rows: the events that are held, encoded; all of one topic.
        system, kind: those of the event before. They are hints, which no lock guards.
        opened: the topic whose rows may be added, `_CLOSED` if none may. There is no call between a look at
            it and adding a row, so no other thread and no interrupt comes in between.
        room, places: how many more bytes and rows there is room for.
    """

    def __init__(self, publisher: Holding, seconds: float, max_event_bytes: int) -> None:
        """Hold events of `publisher` for up to `seconds`."""
        self.rows: list[bytes] = []
        self._publisher = publisher
        self._seconds = seconds
        self._soon = seconds / _EXPECTED_ROWS
        self._max = max_event_bytes
        self._no_fragments = known_references()
        self.system: Any = ""
        self.kind: Any = ""
        # When an event last came right after one of its topic; the one before is as young.
        self._before = -inf
        self.opened: tuple[Any, Any] = _CLOSED
        self.room = self.places = 0
        # What is held: its topic, and since when.
        self._key: tuple[Any, Any] = ("", "")
        self._since: float | None = None
        self._scheduled = False
        # A batch on its way: its frame, the steps taken, and what its topic has counted after it.
        self._frame: bytes | None = None
        self._steps = 0
        self._message: Message | None = None
        self._counted: tuple[Topic, int] | None = None

    def hold(self, system: Any, kind: Any, path: Any, data: Any, timeout: Any) -> Any:
        """Hold an event if that promises a batch; otherwise send what is held.

        `Sender.send` adds a plain row to an open batch itself, unless that fills it.

        Returns:
            `HELD`; or the timeout with which to send the event now, which may be `BEHIND`.

        Raises:
            Invalid: JSON cannot carry the data. All other bad arguments are left to `send`.
        """
        before, which = self.system, self.kind
        # Nearly always it is the very object, or another text. Only `str` may be asked whether it is equal.
        if (kind is not which or system is not before) and (
            not (kind.__class__ is which.__class__ is system.__class__ is before.__class__ is str)
            or kind != which
            or system != before
        ):
            self.system, self.kind = system, kind
            return self.let_pass(timeout) if self.rows else timeout
        opened = self.opened
        fits = opened[1] is which and opened[0] is before
        # If rows may be added, it goes in time in any case, and there is no need to read the clock (60 ns).
        late = not fits and self._after_pause()
        if late or timeout is not DEFAULT or path.__class__ is not str:
            return self.let_pass(timeout) if self.rows else timeout
        try:
            row = _dumps((path, data)) + _SEPARATOR
        except TypeError:
            return self.let_pass(timeout) if self.rows else timeout
        if not path or "\0" in path:
            return timeout
        if row.rpartition(b"null")[1] or _references(_Fragment) != self._no_fragments:
            check_row(path, data, row)
            if maybe_deep(row):
                return self.let_pass(timeout) if self.rows else timeout
        size = len(row)
        # From here to the append there is no call: see `opened`.
        if fits and opened is self.opened and (room := self.room - size) >= 0:
            self.room = room
            self.places = places = self.places - 1
            self.rows.append(row)
            if room < MIN_ROOM or places <= 0:
                self.opened = _CLOSED
                self._under_lock(self.go)
                self._before = _monotonic()
            return HELD
        return self._under_lock(self._begin, (before, which), row, size)

    def _after_pause(self) -> bool:
        now = _monotonic()
        before, self._before = self._before, now
        return now - before > self._soon

    def let_pass(self, timeout: Any) -> Any:
        """Send what is held before an event that is not; return with which timeout to send that."""
        if timeout is not DEFAULT:
            return timeout  # it takes the long way anyway
        return DEFAULT if self._under_lock(self.go) else BEHIND

    def _under_lock(self, call: Callable[..., Any], *args: Any) -> Any:
        publisher = self._publisher
        if publisher.sending or publisher.lock.held():
            publisher.give_way()
        publisher.sending = True
        try:
            with publisher.lock:
                return call(*args)
        finally:
            publisher.sending = False

    def _begin(self, topic: tuple[Any, Any], row: bytes, size: int) -> Any:
        """Begin a batch with a row, under the lock; return what `hold` returns."""
        if self.rows and not self.go():
            return BEHIND
        # Classes first: the text alone must decide which topic it is. One that is up to date was checked.
        if (
            topic[0].__class__ not in ALIKE
            or topic[1].__class__ not in ALIKE
            or not self._settled(topic)
            or (room := room_for(plain(topic[0]), plain(topic[1]), self._max) - size) < 0
        ):
            return DEFAULT
        # First the time, then the timer. `_expire` looks at them in the other order, so one sees the other.
        self._since = _monotonic()
        if not self._scheduled:
            try:
                housekeeping.schedule(self._expire, self._seconds)
            except Unavailable:  # nobody would send it in time
                return DEFAULT
            self._scheduled = True
        self._key = topic
        self.room, self.places = room, MAX_ROWS - 1
        self.rows.append(row)
        self.opened = topic
        return HELD

    def go(self) -> bool:
        """Send what is held if that is possible at once, under the lock; return whether nothing is left."""
        if self._settled(self._key):
            with suppress(*_REFUSED):
                self.transmit()
        return not self.rows

    def _settled(self, topic: tuple[Any, Any]) -> bool:
        """Return whether everyone who listens is known, and this topic has been sent to since."""
        publisher = self._publisher
        known = publisher.token[0] == publisher.settled_token
        return known and topic[1] in publisher.current.get(topic[0], ())

    def transmit(self) -> None:
        """Send what is held, under the lock; raise `zmq.Again` or `Full` if that is not possible now."""
        opened, self.opened = self.opened, _CLOSED  # from here on nobody adds a row
        try:
            if self._frame is not None:
                self._finish()
            if self.rows:
                self._publisher.transmit(self._unsent(), self._emit)
            self._since = None
        except BaseException:
            if self._frame is not None:  # an interrupt: others may send as soon as the lock is free
                with suppress(*WOULD_BLOCK):
                    self._finish()
            if self.rows:
                self.opened = opened
            raise

    def _unsent(self) -> Unsent:
        system, kind = map(plain, self._key)
        rows = self.rows
        if len(rows) == 1:
            return Unsent(system, kind, *event_of(rows[0]), 1)
        return Unsent(system, kind, b"", batch_of(rows), len(rows))

    def _emit(self, frame: bytes, topic: Topic, events: int) -> None:
        self._counted = topic, topic.seq + events
        self._steps = 0
        self._frame = frame
        self._finish()

    def _finish(self) -> None:
        """Take the steps that are left for the batch on its way."""
        publisher = self._publisher
        try:
            self._step(_BLOCK, publisher.block)
        except WOULD_BLOCK:
            self._message = None
            self._frame = None  # nobody got it: its rows stay
            raise
        try:
            self._step(_DROP, publisher.drop)
        except WOULD_BLOCK:
            self._message = None
            self._steps = _DROP  # if this is interrupted, better lost than sent twice
            assert self._frame is not None
            publisher.force(self._frame)
        # From here on there is no call, so no interrupt comes in between.
        assert self._counted is not None
        topic, seq = self._counted
        topic.seq = seq
        self.rows = []
        self._since = self._frame = None

    def _step(self, step: int, send: Callable[..., object] | None) -> None:
        if self._steps >= step:
            return
        if send is not None:
            if self._message is None:
                assert self._frame is not None
                self._message = Message(self._frame, send)
            self._message.send()
        self._message = None
        self._steps = step

    def _expire(self) -> None:
        """Send what has been held for long enough; called in the housekeeping thread."""
        self._scheduled = False
        since = self._since
        if since is None:
            return
        left = since + self._seconds - _monotonic()
        if left <= 0:
            self.try_to_go()
            left = _RETRY_SECONDS
        if self._since is not None and not self._scheduled:
            housekeeping.schedule(self._expire, left)
            self._scheduled = True

    def transmit_or_wait(self, await_room: Callable[[], None]) -> None:
        """Send what is held, under the lock; if there is no room, wait a while before this raises.

        The wait is not in the call that sends, because an interrupt of that tells nothing.
        """
        if self.rows:
            try:
                self.transmit()
            except WOULD_BLOCK:
                await_room()
                raise

    def try_to_go(self) -> None:
        """Send what is held if that is possible soon. Any thread may call this."""
        with suppress(*_REFUSED):
            self._publisher.lock.run(self.transmit, _LOCK_SECONDS)

    def handing_over(self, deadline: float) -> Iterator[float]:
        """Yield how long to wait, until nothing is held or it is `deadline` (monotonic)."""
        while self.rows:
            self.try_to_go()
            if not self.rows or time.monotonic() >= deadline:
                return
            yield _PAUSE_SECONDS

    def close(self) -> None:
        """Give up what is held, under the lock. Its events take their numbers, so their loss can be told."""
        housekeeping.unschedule(self._expire)
        if rows := self.rows:
            system, kind = map(plain, self._key)
            topic = self._publisher.streams.get(system, kind)
            if topic is not None:
                topic.seq += len(rows)
            report(
                "%d events to %s %s could not be handed over within linger, and are lost",
                len(rows),
                system,
                kind,
            )
        self.forget()

    def forget(self) -> None:
        """Hold nothing any more."""
        self.rows, self._frame, self.opened, self._since = [], None, _CLOSED, None
