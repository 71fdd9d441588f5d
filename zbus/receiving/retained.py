"""Marks that a process retains until each of its channels has accounted for them.

A mark tells how far a publisher got (see `protocol.marks`). It comes by the channels' queues, and one that is
full drops it like an event. So it comes a second time, as a *twin*, to the `NoticeListener`, whose queue is
never full. When a channel that lacks what the mark says has emptied its queue, it is told, on the spot or, if
its lock is held because it waits, once more by way of its queue:

    publisher ══ forwarder ── SUB of each channel
                    ▲      └─ NoticeListener ── RetainedMarks
                    └──────────── probe ───────────┘

That overtakes nothing: a twin comes after all earlier events of its publisher.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from weakref import WeakKeyDictionary

from ..errors import Unavailable
from ..protocol.decoder import Decoder
from ..protocol.marks import MAX_MARKS, Mark
from ..runtime import housekeeping
from ..runtime.locks import Lock
from .source import Source

__all__ = ["RetainedMarks"]

# How long after a mark to look at first; after a look that passed marks on; and after one that accounted for
# some. Else each pause is twice as long as the one before, up to that between two ticks of the housekeeping
# thread.
_FIRST_SECONDS, _SOON_SECONDS, _NEXT_SECONDS, _TICK_SECONDS = 0.2, 0.002, 0.05, 1.0
_LOOK_SECONDS = 0.01  # a look takes no longer
_AT_ONCE = 256  # copying 60,000 marks would take longer than that (measured)
# After this time, a mark that was passed on and not accounted for may have been dropped.
_AGAIN_SECONDS = 0.05

Key = tuple[bytes, bytes, bytes, int]


class RetainedMarks:
    """The retained marks of one ingress."""

    def __init__(self, sources: Callable[[], list[Source]], send: Callable[[bytes], None]) -> None:
        """Retain marks for `sources()`; `send` sends a frame to all of them by way of the forwarder."""
        self._sources = sources
        self._send = send
        self._marks: OrderedDict[Key, Mark] = OrderedDict()
        self._lock = Lock()
        self._pause = _FIRST_SECONDS
        # For each channel, the mark that was passed on last, and when (monotonic).
        self._latest: WeakKeyDictionary[Source, tuple[Mark, float]] = WeakKeyDictionary()

    def keep(self, marks: Iterable[Mark]) -> None:
        """Retain marks that have arrived, and look soon. Any thread may call this."""
        with self._lock:
            for mark in marks:
                key = (*mark.stream, mark.stamp.settled)
                if (known := self._marks.get(key)) is None or known.stamp.seq < mark.stamp.seq:
                    self._marks[key] = mark
            while len(self._marks) > MAX_MARKS:
                self._marks.popitem(last=False)
        self._pause = _FIRST_SECONDS
        self._look_in(_FIRST_SECONDS)

    def _look_in(self, seconds: float) -> None:
        with suppress(Unavailable):  # without a thread, channels learn from the next event
            housekeeping.schedule(self.look, seconds)

    def look(self) -> None:
        """Tell marks to the channels that lack them and can take them; forget those that nobody lacks."""
        if not self._marks:
            return
        look, kept = _Look([source for source in self._sources() if not source.closing]), len(self._marks)
        left = kept
        while left > 0 and not look.over and (front := self._front(min(left, _AT_ONCE))):
            left -= len(front)
            for key, mark in front:
                self._look_at(key, mark, look)
                if look.over:
                    break
        if self._marks:
            more = _SOON_SECONDS if look.passed_on else _NEXT_SECONDS
            self._pause = more if look.passed_on or len(self._marks) < kept else 2 * self._pause
            if self._pause < _TICK_SECONDS:  # else `look` is called once a second anyway
                self._look_in(self._pause)

    def _front(self, count: int) -> list[tuple[Key, Mark]]:
        """Return some of the marks that were looked at longest ago."""
        with self._lock:
            return list(islice(self._marks.items(), count))

    def _look_at(self, key: Key, mark: Mark, look: _Look) -> None:
        for source in look.sources:
            source.note(mark)
        lacking = [source for source in look.sources if not source.decoder.accounted(mark)]
        self._pass_on(mark, [source for source in lacking if look.tell(source, mark)], look)
        accounted = all(source.decoder.accounted(mark) for source in lacking)
        self._done(key, mark, forget=accounted)

    def _pass_on(self, mark: Mark, waiting: list[Source], look: _Look) -> None:
        """Send a mark to channels that wait for frames. At most half of a queue is taken at a time."""
        for source in waiting:
            look.room.setdefault(source, self._room(source, look.begun))
        if any(look.room[source] > 0 for source in waiting):
            self._send(mark.frame)
            look.passed_on = True
            for source in waiting:
                look.room[source] -= 1
                self._latest[source] = mark, look.begun
        look.busy.update(source for source in waiting if look.room[source] <= 0)

    def _room(self, source: Source, now: float) -> int:
        """Return how many marks may be passed on to a channel: none until it has taken the last ones."""
        mark, passed_at = self._latest.get(source, (None, 0.0))
        if mark is not None and now < passed_at + _AGAIN_SECONDS and not source.decoder.accounted(mark):
            return 0
        return max(1, source.queue.capacity.events // 2)

    def _done(self, key: Key, mark: Mark, *, forget: bool) -> None:
        """Forget a mark, or keep it for a later look, unless it was replaced meanwhile."""
        with self._lock:
            if self._marks.get(key) is not mark:
                return
            if forget:
                del self._marks[key]
            else:
                self._marks.move_to_end(key)

    def lacking(self, decoder: Decoder) -> list[bytes]:
        """Return the marks that a channel has not accounted for."""
        with self._lock:
            return [mark.frame for mark in self._marks.values() if not decoder.accounted(mark)]

    def close(self) -> None:
        """Look no more."""
        housekeeping.unregister(self.look)


class _Look:
    """One look at retained marks.

    Attributes:
        begun: when (monotonic).
        sources: those of the channels that are open.
        busy: those that have frames to take before they can learn anything more.
        room: how many marks may still be passed on to a source that waits.
        passed_on: whether any was.
    """

    def __init__(self, sources: list[Source]) -> None:
        self.begun = time.monotonic()
        self.sources = sources
        self.busy: set[Source] = set()
        self.room: dict[Source, int] = {}
        self.passed_on = False

    @property
    def over(self) -> bool:
        """Whether it has taken long enough, or nobody can learn anything more."""
        if self.sources and len(self.busy) == len(self.sources):
            return True
        return time.monotonic() > self.begun + _LOOK_SECONDS

    def tell(self, source: Source, mark: Mark) -> bool:
        """Tell a source a mark that it lacks, if it can learn; return whether the mark must be passed on."""
        if source in self.busy:
            return False
        waits = source.learn(mark)
        if not waits and not source.decoder.accounted(mark):
            self.busy.add(source)
        return waits
