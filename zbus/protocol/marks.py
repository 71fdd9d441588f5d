"""Marks: how a publisher tells a subscriber that it had given up what that subscriber missed.

A mark is a batch without items. Its `seq` is the number that the next event of the topic will have. Its
`settled` and `first` say: a channel that had joined by `settled` should have got every number from `first`
on. A
    channel
that began to count later now knows exactly what it missed. To every other channel the mark says nothing new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .wire import EMPTY_BATCH, Stamp, frame_template

__all__ = ["Marks", "Topic", "mark"]

Key = tuple[str, str, str]


class Topic:
    """A (system, kind) that a publisher sends to.

    Attributes:
        born: when it began to number this topic, in microseconds of CLOCK_MONOTONIC.
        seq: the number of the latest event.
        bytes: how many bytes of frames were sent.
        template: makes its frames, see `frame_template`.
        announced: bytes of large frames that may still follow without another notice.
    """

    __slots__ = ("announced", "born", "bytes", "seq", "template")

    def __init__(self, born: int) -> None:
        self.born = born
        self.seq = 0
        self.bytes = 0
        self.template = b""
        self.announced = 0


def mark(system: str, kind: str, stamp: Stamp, time: bytes) -> bytes:
    """Return a mark that is sent at `time`; its `seq` is the number that the next event will have."""
    return frame_template(system, kind, stamp) % (b"", stamp.seq, time, EMPTY_BATCH)


class Marks:
    """The marks of one publisher: those it may have to send, and those it must send now.

    Attributes:
        waiting: frames to be sent before the next event.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._owed: dict[int, dict[Key, tuple[Topic, int]]] = {}

    def note(self, key: Key, topic: Topic, late: Iterable[int]) -> None:
        """Remember the next number of a stream for everybody who was given up, unless one is remembered.

        `late` are the times at which the publisher settled without somebody.
        """
        for since in late:
            self._owed.setdefault(since, {}).setdefault(key, (topic, topic.seq + 1))

    def tell(self, returned: Iterable[int], time: bytes) -> None:
        """Make the marks for those who were given up at these times and have answered now, at `time`."""
        for since in returned:
            for (origin, system, kind), (topic, first) in self._owed.get(since, {}).items():
                stamp = Stamp(origin, topic.seq + 1, topic.born, since, first)
                self.waiting.append(mark(system, kind, stamp, time))

    def keep(self, late: Iterable[int]) -> None:
        """Forget all times but these."""
        self._owed = {since: self._owed[since] for since in late if since in self._owed}
