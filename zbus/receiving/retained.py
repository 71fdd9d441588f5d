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

from ..errors import Unavailable
from ..protocol.decoder import Decoder
from ..protocol.marks import MAX_MARKS, Mark
from ..runtime import housekeeping
from ..runtime.locks import Lock
from .source import Source

__all__ = ["RetainedMarks"]

# How long after a mark to look at first, and after a look that accounted for some. Then each pause is twice
# as long as the one before, up to that between two ticks of the housekeeping thread.
_FIRST_SECONDS, _NEXT_SECONDS, _TICK_SECONDS = 0.2, 0.05, 1.0
_LOOK_SECONDS = 0.01  # a look takes no longer

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
        sources = [source for source in self._sources() if not source.closing]
        until = time.monotonic() + _LOOK_SECONDS
        kept, room = len(self._marks), dict[Source, int]()
        for key, mark in [*self._marks.items()]:
            lacking = [source for source in sources if not source.decoder.accounted(mark)]
            self._pass_on(mark, [source for source in lacking if source.learn(mark)], room)
            self._done(key, mark, forget=all(source.decoder.accounted(mark) for source in lacking))
            if time.monotonic() > until:
                self._pause = _NEXT_SECONDS / 2
                break
        if self._marks:
            self._pause = _NEXT_SECONDS if len(self._marks) < kept else 2 * self._pause
            if self._pause < _TICK_SECONDS:  # else `look` is called once a second anyway
                self._look_in(self._pause)

    def _pass_on(self, mark: Mark, waiting: list[Source], room: dict[Source, int]) -> None:
        """Send a mark to channels that wait for frames. At most half of a queue is taken at a time."""
        for source in waiting:
            room.setdefault(source, max(1, source.queue.capacity.events // 2))
        if any(room[source] > 0 for source in waiting):
            self._send(mark.frame)
            for source in waiting:
                room[source] -= 1

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
