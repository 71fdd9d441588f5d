"""Marks: how a publisher tells a joiner that it gave up what that one has missed.

A mark is a batch without items. Its `seq` is the number that the next event of the topic will bear, and its
`settled` and `first` say from which number on those were counted in who had joined by then. So a channel that
began to count later knows what is missing before that, exactly, and to all others the mark says nothing new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .wire import EMPTY_BATCH, Stamp, frame_template

__all__ = ["Marks", "Topic"]

Key = tuple[str, str, str]


class Topic:
    """A (system, kind) that a publisher sends to: since when, the last number, and the form of its frames."""

    __slots__ = ("announced", "born", "seq", "template")

    def __init__(self, born: int) -> None:
        self.born = born
        self.seq = 0
        self.template = b""
        self.announced = 0  # bytes of large frames that may follow without another notice


class Marks:
    """The marks of one publisher: what is owed, and what waits to be sent.

    Attributes:
        waiting: frames to be sent before the next event.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._owed: dict[int, dict[Key, tuple[Topic, int]]] = {}

    def note(self, key: Key, topic: Topic, late: Iterable[int]) -> None:
        """Note that the next event of a stream is the first since the publisher settled, if it is.

        `late` says as of when somebody was left out.
        """
        for since in late:
            self._owed.setdefault(since, {}).setdefault(key, (topic, topic.seq + 1))

    def tell(self, returned: Iterable[int]) -> None:
        """Make the marks for those who were left out as of these times, and are there now."""
        for since in returned:
            for (origin, system, kind), (topic, first) in self._owed.get(since, {}).items():
                stamp = Stamp(origin, 0, topic.born, since, first)
                self.waiting.append(frame_template(system, kind, stamp) % (b"", topic.seq + 1, EMPTY_BATCH))

    def keep(self, late: Iterable[int]) -> None:
        """Forget what is owed to nobody any more."""
        self._owed = {since: self._owed[since] for since in late if since in self._owed}
