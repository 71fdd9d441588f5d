"""Loss accounting: which number each stream should show next.

A *stream* is one (origin, system, kind). Its events are numbered from 1 without holes, and a channel gets all
of them or none. So once a channel counts a stream, a hole in the numbers is exactly a loss.

The first frame of a stream needs care. What came before it was either sent before this channel joined, which
is not a loss, or was meant for this channel and dropped. The stamp of the frame decides. It says when the
stream was *born*, when the publisher last *settled* who listens, and the *first* number it sent after that.
The join is two times, because nobody can tell when between them a publisher learned of the channel:

              announced_at              joined_at
    ───────────────┼────────────────────────┼─────────────────▶ time
                   │                        │
     settled here: │ settled after announced_at:
     the publisher │ the channel was meant from number `first` on
     did not know  │                        │
     this channel  │                        │ born here: the channel was meant from number 1 on

A frame from a publisher that settled before `announced_at` is here only because another channel of this
process subscribed to it. The stream is not counted yet, and holes in it mean nothing.

A publisher that gave up this channel while it joined, and settled again later, sends a *mark*. It says from
which number on the channel should have been counted in. So a stream remembers where it began to count, and
what a mark adds before that is lost too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ..event import Gap

__all__ = ["MAX_GAP", "MAX_TOPICS", "Stream", "Streams"]

MAX_TOPICS = 65_536
MAX_GAP = 2**40
"""A stream cannot lose more at once: that is a million events a second for twelve days. More is forged."""

Key = tuple[bytes, bytes, bytes]


class Stream:
    """One (system, kind, origin) as a channel sees it.

    Attributes:
        system, kind, origin: its names; `system_key` and so on are the same as bytes of a frame.
        wanted: whether the channel's patterns select it.
        begin: the number from which on it is counted, -1 while it is not.
        next: the number that is due, -1 while it is not counted.
        marked: the number that the latest mark told, -1 if none has come.
        width: how many digits `next` has.
    """

    __slots__ = (
        "begin",
        "kind",
        "kind_key",
        "marked",
        "next",
        "origin",
        "origin_key",
        "system",
        "system_key",
        "wanted",
        "width",
    )

    def __init__(self, key: Key, wanted: bool) -> None:
        self.system_key, self.kind_key, self.origin_key = key
        self.system = key[0].decode()
        self.kind = key[1].decode()
        self.origin = key[2].decode()
        self.wanted = wanted
        self.marked = -1
        # No stamp has the number -1, so nothing is due yet. Frames without an origin are never numbered.
        self.begin_at(-1)

    def begin_at(self, due: int) -> None:
        """Count from the number `due` on, which is expected next."""
        self.begin = due
        self.expect(due)

    def expect(self, due: int) -> None:
        """Expect the number `due` next."""
        self.next = due
        self.width = len(str(due))

    def jump(self, seq: int) -> Gap | None:
        """Return the gap before `seq`, or `None` if nothing is missing.

        A number lower than the one due is not a loss: the publisher began again under the same origin.
        Nothing is missing either while the stream is not counted.
        """
        if self.wanted and 0 <= self.next < seq:
            return Gap(self.origin, self.system, self.kind, self.next, seq - 1)
        return None


class Streams:
    """The streams that a channel knows, a bounded number.

    There are two generations instead of a list in order of use, because then a lookup costs nothing extra.
    Streams in use are in the young generation. When that is full it becomes the old one, and the old one is
    forgotten. So the `limit` most recently used streams are always known, and at most twice as many.

    Attributes:
        uncounted: how many events of selected streams have passed that the numbers of no known stream tell.
        changes: odd while a frame is being counted, and different afterwards.
    """

    def __init__(self, wants: Callable[[str, str], bool], limit: int = MAX_TOPICS) -> None:
        """Ask `wants(system, kind)` once for each new stream whether the channel selects it."""
        self._wants = wants
        self._limit = limit
        self._young: dict[Key, Stream] = {}
        self._old: dict[Key, Stream] = {}
        self._latest_born = 0
        self._announced_at: float = inf
        self._joined_at: float = inf
        self._forgetful = False
        self.uncounted = 0
        self.changes = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def joined(self, announced_at: int, now: int) -> None:
        """Note when this channel joined, in microseconds of CLOCK_MONOTONIC.

        Args:
            announced_at: just before the channel was announced; who settled until then did not know of it.
            now: when the join was complete; every publisher that settles from then on knows of it. If both
                are unknown (-1), nothing before the first frame of a stream counts as lost.
        """
        known = now >= 0
        self._announced_at = announced_at
        self._joined_at = now if known else inf
        self._forgetful = not known

    def due(self, seq: int, born: int, settled: int, first: int) -> int:
        """Return which number was due when `seq` is the first seen of a stream; see the top of this file.

        The other arguments come from the same stamp and are -1 if it does not tell them. Returns -1 if the
        frame was not meant for this channel, so the stream is not counted yet.
        """
        self._latest_born = max(self._latest_born, born)
        return self._due(seq, born, settled, first)

    def _due(self, seq: int, born: int, settled: int, first: int) -> int:
        if born > self._joined_at:
            return 1
        if settled < 0:
            return seq
        if settled <= self._announced_at:
            return -1
        return first if 0 < first <= seq and not self._forgetful else seq

    def accounted(self, key: Key, seq: int, born: int, settled: int, first: int) -> bool:
        """Return whether a mark would reveal no loss; the arguments are its stream and what its stamp says.

        It changes nothing, so any thread may call it. Before the channel has joined, nobody can tell.
        """
        stream = self._young.get(key) or self._old.get(key)
        if not (self._wants(key[0].decode(), key[1].decode()) if stream is None else stream.wanted):
            return True
        if self._announced_at == inf:
            return False
        counted = stream is not None and stream.next >= 0
        due = stream.next if stream and counted else self._due(seq, born, settled, first)
        if due < 0 or due < seq - MAX_GAP:
            return True
        return due >= seq and not (stream and counted and self._reveals_head(stream, settled, first))

    def awaits(self, key: Key, seq: int) -> bool:
        """Return whether all events before a mark with this number were taken, and not yet the mark itself.

        Any thread may call this.
        """
        stream = self._young.get(key) or self._old.get(key)
        return stream is not None and stream.wanted and stream.next == seq != stream.marked

    def head(self, stream: Stream, settled: int, first: int) -> Gap | None:
        """Return the gap that a mark reveals before the number from which a stream was counted, if any.

        `settled` and `first` come from the mark's stamp. A mark that settled before this channel was
        announced is for another one, and one that reveals more than `MAX_GAP` events is forged.
        """
        if not stream.wanted or not self._reveals_head(stream, settled, first):
            return None
        last, stream.begin = stream.begin - 1, first
        return Gap(stream.origin, stream.system, stream.kind, first, last)

    def _reveals_head(self, stream: Stream, settled: int, first: int) -> bool:
        return (
            not self._forgetful
            and settled > self._announced_at
            and 0 < first < stream.begin <= first + MAX_GAP
        )

    def advance(self, stream: Stream, seq: int, events: int) -> None:
        """Note that a frame with so many events has passed, a mark if it has none; `seq` is its number."""
        if stream.next < 0:
            self.uncounted += events * stream.wanted
        elif events or seq > stream.next:
            # If the publisher began again, the numbers no longer tell what came before.
            self.uncounted += max(0, stream.next - seq) * stream.wanted
            stream.expect(seq + events)

    def passed(self) -> int | None:
        """Return how many events of selected streams have arrived or were lost.

        Any thread may call this, whoever else is receiving, so that receiving counts nothing. It takes 0.1 µs
        for each stream. Returns `None` if the streams were changing meanwhile: try again.
        """
        changes = self.changes
        try:
            # In this order, a stream that becomes young is seen at least once.
            known = self._old.copy()
            known.update(self._young)
        except RuntimeError:  # changed while it was copied
            return None
        passed = self.uncounted + _passed(known)
        return passed if changes == self.changes and not changes % 2 else None

    def find(self, key: Key) -> Stream | None:
        """Return the stream of `key` if it is known, and move it to the young generation."""
        stream = self._young.get(key)
        if stream is None and (stream := self._old.pop(key, None)) is not None:
            self._keep(key, stream)
        return stream

    def add(self, key: Key) -> Stream:
        """Add the stream of `key`, which is UTF-8, and return it."""
        stream = Stream(key, self._wants(key[0].decode(), key[1].decode()))
        self._keep(key, stream)
        return stream

    def _keep(self, key: Key, stream: Stream) -> None:
        if len(self._young) >= self._limit:
            if self._old:
                # A forgotten stream may come back, and then neither number 1 nor `first` is due any more.
                self._joined_at = max(self._joined_at, self._latest_born)
                self._forgetful = True
            self._forget_old()
        self._young[key] = stream

    def _forget_old(self) -> None:
        outermost = not self.changes % 2
        self.changes += outermost
        self.uncounted += _passed(self._old)
        forgotten, self._young, self._old = self._old, {}, self._young
        for stream in forgotten.values():  # the short cut of the decoder may still hold one
            stream.begin_at(-1)
        self.changes += outermost


def _passed(streams: dict[Key, Stream]) -> int:
    return sum(stream.next - stream.begin for stream in streams.values() if stream.wanted)
