"""Marks: how a publisher tells its subscribers what they have lost when no further event does.

A mark is a batch without items. Its `seq` is the number that the next event of the topic will have, so what a
channel expects before that number is lost. Its `settled` and `first` are those of the events it is about: a
channel that had joined by `settled` should have got every number from `first` on, even if it begins to count
later. To a channel that has all of it, a mark says nothing new.

    owed ─► sent ─► forgotten
             └ while somebody may not have got it: in doubt ─► owed again, when that somebody is back
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from .wire import EMPTY_BATCH, TWIN, Malformed, Stamp, decode_fields

__all__ = ["MAX_MARKS", "Mark", "Marks", "Topic", "decode_twin", "mark_frame", "mark_frames"]

MAX_MARKS = 65_536
"""How many marks a publisher owes, and a receiving process keeps, at most. The oldest are forgotten first."""

Key = tuple[bytes, bytes, bytes]


class Topic:
    """A (system, kind) that a publisher sends to.

    Attributes:
        born: when it began to number this topic, in microseconds of CLOCK_MONOTONIC.
        seq: the number of the latest event.
        bytes: how many bytes of frames were sent.
        marked: the number of the latest event that a mark has told of, -1 if that is in doubt.
        first: the first number that is sent with its template.
        template: makes its frames, see `frame_template`.
        announced: bytes of large frames that may still follow without another notice.
    """

    __slots__ = ("announced", "born", "bytes", "first", "marked", "seq", "template")

    def __init__(self, born: int) -> None:
        self.born = born
        self.seq = self.marked = 0
        self.bytes = 0
        self.first = 1
        self.template = b""
        self.announced = 0

    @property
    def unmarked(self) -> bool:
        """Whether events were sent with this template that no mark has told of."""
        return self.first <= self.seq != self.marked


class Marks:
    """The marks of one publisher: those it owes, and those that somebody may not have got.

    Both are kept by the template that the events were sent with, so an old `settled` and `first` lives on.
    """

    def __init__(self) -> None:
        # A dict would search for its oldest item ever longer, as it keeps the places of those that are gone.
        self._owed: OrderedDict[bytes, Topic] = OrderedDict()
        self._in_doubt: OrderedDict[bytes, Topic] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, template: bytes, topic: Topic) -> None:
        """Owe a mark for events of a topic that were sent with this template."""
        self._owed[template] = topic
        _bound(self._owed)

    def owe_unmarked(self, topics: Iterable[Topic]) -> None:
        """Owe a mark for each of these topics that has had events since its last one."""
        for topic in topics:
            if topic.seq != topic.marked and topic.first <= topic.seq:  # `unmarked`, without a call
                self._owed[topic.template] = topic
        _bound(self._owed)

    def owe_again(self) -> None:
        """Owe all marks again that are in doubt."""
        again, self._in_doubt = self._in_doubt, OrderedDict()
        again.update(self._owed)
        self._owed = again
        _bound(self._owed)

    def trust(self) -> None:
        """Note that everybody has got what was sent."""
        self._in_doubt.clear()

    def doubt(self, template: bytes, topic: Topic) -> None:
        """Note that somebody may not have got a mark that was sent."""
        self._in_doubt[template] = topic
        _bound(self._in_doubt)

    def take(self) -> tuple[bytes, Topic]:
        """Return the template and topic of the mark that is owed longest, which is about to be sent."""
        template, topic = self._owed.popitem(last=False)
        if template == topic.template:
            topic.marked = topic.seq
        return template, topic


def mark_frames(template: bytes, topic: Topic, time: bytes) -> tuple[bytes, bytes]:
    """Return a mark that is sent at `time`, and its twin, to be sent in this order."""
    mark = mark_frame(template, topic.seq + 1, time)
    return mark, TWIN + mark


def mark_frame(template: bytes, due: int, time: bytes) -> bytes:
    """Return a mark that says which number is due."""
    return template % (b"", due, time, EMPTY_BATCH)


def _bound(marks: OrderedDict[bytes, Topic]) -> None:
    while len(marks) > MAX_MARKS:
        marks.popitem(last=False)


class Mark(NamedTuple):
    """A mark that has arrived as a twin.

    Attributes:
        stream: the system, kind and origin, as bytes of the frame.
        stamp: its stamp.
        frame: the mark as it goes by the channels.
    """

    stream: Key
    stamp: Stamp
    frame: bytes


def decode_twin(frame: bytes) -> Mark | None:
    """Return the mark in a twin, or `None` if `frame` is not a twin."""
    if not frame.startswith(TWIN):
        return None
    mark = frame[len(TWIN) :]
    fields = mark.split(b"\0", 4)
    try:
        _, _, stamp, events = decode_fields(fields)
    except Malformed:
        return None
    if events:
        return None
    return Mark((fields[0], fields[1], stamp.origin.encode()), stamp, mark)
