"""Loss accounting: what number each stream should show next.

A *stream* is one (origin, system, kind): its events are numbered from 1 without holes, and a channel
sees all of them or none. So a hole is a loss, exactly. The first number seen needs care: what came
before it was either sent before this channel joined, which is no loss, or dropped since. The stamp tells
when the stream was *born*: one that is younger than the channel was meant for it from number 1. And it tells
as of when the publisher had *settled* who listens, and the *first* number it sent since. While that time is
before the join, numbers may have holes: what arrives was on its way to another channel of the same process.
After that, `first` was the first that was meant for this one.

A publisher that gave up a joiner, and settled again since, tells it by a *mark* from which number on it was
counted in. So a stream remembers from where it counts, and what a mark adds before that is missing too.
"""

from __future__ import annotations

from collections.abc import Callable

from ..event import Gap

__all__ = ["MAX_GAP", "MAX_TOPICS", "Stream", "Streams"]

MAX_TOPICS = 65_536
MAX_GAP = 2**40
"""A stream cannot lose more at once: that is a million events a second for twelve days. More is a forgery."""

Key = tuple[bytes, bytes, bytes]


class Stream:
    """One (system, kind, origin) as a channel sees it: its names, the verdict, and what comes next."""

    __slots__ = (
        "begin",
        "kind",
        "kind_key",
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
        # -1 is no number that a stamp can bear: none is due yet. Without an origin nothing is numbered.
        self.begin_at(-1)

    def begin_at(self, due: int) -> None:
        """Begin to count with the number that is due."""
        self.begin = due
        self.expect(due)

    def expect(self, due: int) -> None:
        """Set the number that is due, and `width`, how many digits it has."""
        self.next = due
        self.width = len(str(due))

    def jump(self, seq: int) -> Gap | None:
        """Return the gap before `seq`, which is not the number that was due.

        A number lower than that is no loss: its publisher began again under the same origin. Nor is any,
        if none was due (-1).
        """
        if self.wanted and 0 <= self.next < seq:
            return Gap(self.origin, self.system, self.kind, self.next, seq - 1)
        return None


class Streams:
    """The streams a channel knows, bounded.

    Two generations instead of an ordered list, because that costs nothing per event: a lookup in the
    young one succeeds for all that is in use; when it is full it becomes the old one, and that is
    forgotten. So at least the `limit` most recently used streams are known, and at most twice as many.
    """

    def __init__(self, wants: Callable[[str, str], bool], limit: int = MAX_TOPICS) -> None:
        """Judge each new topic once with `wants(system, kind)`."""
        self._wants = wants
        self._limit = limit
        self._young: dict[Key, Stream] = {}
        self._old: dict[Key, Stream] = {}
        self._latest_born = 0
        self._announced_at: float = float("inf")
        self._joined_at: float = float("inf")
        self._forgetful = False

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def joined(self, announced_at: int, now: int) -> None:
        """Note when this channel joined (CLOCK_MONOTONIC in microseconds).

        No publisher that had settled until `announced_at` counts it in; from `now` on every one does. If they
        are unknown (-1), the first sight of a stream is never a loss.
        """
        known = now >= 0
        self._announced_at = announced_at
        self._joined_at = now if known else float("inf")
        self._forgetful = not known

    def due(self, seq: int, born: int, settled: int, first: int) -> int:
        """Return what was due when a stream shows `seq` and none of its numbers is known.

        The others are of its stamp, -1 if untold. Returns -1 if this frame was not meant for the channel.
        """
        self._latest_born = max(self._latest_born, born)
        if born > self._joined_at:
            return 1
        if settled < 0:
            return seq
        if settled <= self._announced_at:
            return -1
        return first if 0 < first <= seq and not self._forgetful else seq

    def head(self, stream: Stream, settled: int, first: int) -> Gap | None:
        """Return what a mark adds to the losses of a stream in use: the gap before it began to be counted.

        Both numbers are of the mark's stamp. To a channel that joined later than `settled` it says nothing.
        """
        if (
            not stream.wanted
            or self._forgetful
            or settled <= self._announced_at
            or not 0 < first < stream.begin
        ):
            return None
        last, stream.begin = stream.begin - 1, first
        return Gap(stream.origin, stream.system, stream.kind, first, last)

    def find(self, key: Key) -> Stream | None:
        """Return the stream of `key` if it is known, and keep it known."""
        stream = self._young.get(key)
        if stream is None and (stream := self._old.pop(key, None)) is not None:
            self._keep(key, stream)
        return stream

    def add(self, key: Key) -> Stream:
        """Return a new stream; `key` is UTF-8."""
        stream = Stream(key, self._wants(key[0].decode(), key[1].decode()))
        self._keep(key, stream)
        return stream

    def _keep(self, key: Key, stream: Stream) -> None:
        if len(self._young) >= self._limit:
            if self._old:
                # What is forgotten may come back, and then neither number 1 nor `first` is due any more.
                self._joined_at = max(self._joined_at, self._latest_born)
                self._forgetful = True
            self._young, self._old = {}, self._young
        self._young[key] = stream
