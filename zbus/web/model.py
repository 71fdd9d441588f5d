"""What the page shows of a bus, in bounded memory; without a socket, a thread or a clock.

    items of a tap ── fold ──┐
    a snapshot ────── see ───┼──> Topic, by number ── changes ──> numbers of those that have changed
    a second passes ─ turn ──┘

Of a topic only the latest value is kept, and only its beginning. It is made text when somebody looks at it.
"""

from __future__ import annotations

from typing import Any

from ..event import Event, Gap
from ..observe.selection import Selection
from ..observe.snapshot import MemberRow, Snapshot, TopicRow
from ..protocol.loss import Stream
from ..protocol.undecoded import Item, Undecoded
from ..protocol.wire import encode_data

__all__ = ["PATH_BYTES", "TOPICS_KEPT", "VALUE_BYTES", "Model", "Topic", "text_of"]

TOPICS_KEPT = 5_000
"""Beyond these, the topics that have been silent for longest are forgotten."""

VALUE_BYTES = 8_192
"""So much is kept of the latest value of a topic."""

PATH_BYTES = 1_024
"""So much is kept of the latest path: it may be as long as a value."""

_FORGOTTEN_AT_ONCE = 100
_PREVIEW_BYTES = 256
_UNTOLD = TopicRow("", "", None, None, None, 0, (), (), None, 0)


class Topic:
    """What is known of a topic.

    Attributes:
        id: a number, never used for another topic.
        system, kind: its names.
        received, missed: how many events came, and how many the page lost, as their numbers prove.
        rate: both, in the last second; `None` in the first.
        seen: what the roster tells of it.
    """

    __slots__ = (
        "_counted",
        "_latest",
        "active",
        "id",
        "kind",
        "missed",
        "path",
        "rate",
        "received",
        "seen",
        "size",
        "system",
        "time",
        "value",
    )

    def __init__(self, id: int, system: str, kind: str) -> None:
        self.id = id
        self.system = system
        self.kind = kind
        self.received = self.missed = self._counted = 0
        self.rate: float | None = None
        self.active = 0
        self.seen = _UNTOLD
        self.time: float | None = None
        self.path = ""
        self.size = 0
        self.value = b""
        self._latest: Undecoded | Event | None = None

    def add(self, events: int, latest: Undecoded | Event) -> None:
        """Count events, of which `latest` came last."""
        self.received += events
        self._latest = latest

    def settle(self, arrived: float) -> None:
        """Keep of the latest event what the page may show; it came until `arrived`."""
        latest, self._latest = self._latest, None
        if latest is None:
            return
        if isinstance(latest, Event):
            path, data = latest.path.encode(), encode_data(latest.data)
            self.time = latest.time
        else:
            path, data = latest[2], latest[4]
            self.time = _sent(latest[3])
        if self.time is None:
            self.time = arrived
        self.path = path[:PATH_BYTES].decode(errors="replace") + ("…" if len(path) > PATH_BYTES else "")
        self.size, self.value = len(data), data[:VALUE_BYTES]

    def turn(self, seconds: float) -> bool:
        """Note the rate over the last `seconds`; return whether it is another one."""
        before, counted = self.rate, self.received + self.missed
        self.rate = (counted - self._counted) / seconds
        self._counted = counted
        return self.rate != before

    def row(self) -> list[Any]:
        """Return what the tree shows; `static/topics.js` has the names of the columns."""
        seen = self.seen
        preview = text_of(self.value, self.size, _PREVIEW_BYTES)
        counts = self.received, self.missed, self.rate, seen.out_bytes
        latest = self.time, self.path, *preview, self.size
        concerned = len(seen.publishers), len(seen.subscribers), seen.lost, seen.lag
        return [self.id, self.system, self.kind, *counts, *latest, *concerned]

    def detail(self) -> dict[str, Any]:
        """Return the latest value as far as it is kept, and who sends and selects the topic."""
        text, whole = text_of(self.value, self.size, VALUE_BYTES)
        return {
            "id": self.id,
            "time": self.time,
            "path": self.path,
            "size": self.size,
            "value": text,
            "whole": whole,
            "mean_size": self.seen.size,
            "sent": self.seen.sent_total,
            "publishers": self.seen.publishers,
            "subscribers": self.seen.subscribers,
        }


class Model:
    """All topics, and the members. Not thread-safe.

    Attributes:
        members: of the latest snapshot.
        rate: events in the last second, received and missed.
        missed: events the page lost so far.
        full: whether topics had to be forgotten.
    """

    def __init__(self, system: str, kind: str | None) -> None:
        """Show the topics that a channel with these patterns selects."""
        self.members: tuple[MemberRow, ...] = ()
        self.rate: float | None = None
        self.missed = 0
        self.full = False
        self._patterns = system, kind or "*"
        self._topics: dict[tuple[str, str], Topic] = {}
        self._by_id: dict[int, Topic] = {}
        self._ids = 0
        self._turns = 1
        self._changed: dict[int, None] = {}
        self._gone: list[int] = []
        self._arrived = 0.0

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def is_changed(self) -> bool:
        """Whether `changes` has something to return."""
        return bool(self._changed or self._gone)

    def topic(self, id: int) -> Topic | None:
        """Return a topic by its number, unless it was forgotten."""
        return self._by_id.get(id)

    def topics(self) -> list[int]:
        """Return the numbers of all topics."""
        return [*self._by_id]

    def fold(self, items: list[Item], arrived: float) -> None:
        """Count what a tap has read at `arrived`, in seconds since the epoch.

        It costs 100 ns an event, so runs of one stream are counted as a whole.
        """
        self._arrived = arrived
        stream: Stream | None = None
        first = 0
        for index, item in enumerate(items):
            of: Stream | None = item[0] if type(item) is tuple else None  # type: ignore[assignment]
            if of is not stream or of is None:
                self._count(stream, items, first, index)
                stream, first = of, index
                if of is None:
                    self._fold_decoded(item)
        self._count(stream, items, first, len(items))

    def _count(self, stream: Stream | None, items: list[Item], first: int, end: int) -> None:
        """Count the items from `first` to before `end`, which are of one stream."""
        if stream is not None:
            latest: Undecoded = items[end - 1]  # type: ignore[assignment]
            self._touch(stream.system, stream.kind).add(end - first, latest)

    def _fold_decoded(self, item: Item) -> None:
        """Count an event of a batch, or one that was the first of its stream, or a gap."""
        if isinstance(item, Gap):
            self._touch(item.system, item.kind).missed += item.events
            self.missed += item.events
        elif isinstance(item, Event):
            self._touch(item.system, item.kind).add(1, item)

    def _touch(self, system: str, kind: str) -> Topic:
        topic = self._topics.get((system, kind)) or self._add(system, kind)
        topic.active = self._turns
        self._changed[topic.id] = None
        return topic

    def _add(self, system: str, kind: str) -> Topic:
        if len(self._topics) >= TOPICS_KEPT:
            self._forget()
        self._ids += 1
        topic = self._topics[system, kind] = self._by_id[self._ids] = Topic(self._ids, system, kind)
        self._changed[topic.id] = None
        return topic

    def _forget(self) -> None:
        self.full = True
        for topic in sorted(self._by_id.values(), key=lambda topic: topic.active)[:_FORGOTTEN_AT_ONCE]:
            del self._topics[topic.system, topic.kind], self._by_id[topic.id]
            self._changed.pop(topic.id, None)
            self._gone.append(topic.id)

    def turn(self, seconds: float) -> None:
        """Note the rates over the last `seconds`."""
        self._turns += 1
        for topic in self._by_id.values():
            if topic.turn(seconds):
                self._changed[topic.id] = None
        self.rate = sum(topic.rate or 0.0 for topic in self._by_id.values())

    def see(self, bus: Snapshot) -> None:
        """Note what the roster tells of members and topics."""
        self.members = bus.members
        told = {(row.system, row.kind): row for row in bus.topics}
        wanted = Selection(told).of(*self._patterns)
        for key in wanted[: max(0, TOPICS_KEPT - len(self._topics))]:
            if key not in self._topics:
                self._add(*key)
        for key, topic in self._topics.items():
            row = told.get(key, _UNTOLD)
            if row != topic.seen:
                topic.seen = row
                self._changed[topic.id] = None

    def changes(self) -> tuple[list[int], list[int]]:
        """Return the numbers of topics that have changed since the last call, and of those forgotten."""
        changed, gone = [*self._changed], self._gone
        self._changed, self._gone = {}, []
        for topic in changed:
            self._by_id[topic].settle(self._arrived)
        return changed, gone


def _sent(stamp: bytes) -> float | None:
    """Return when an event was sent, by its stamp from `born` on."""
    digits = stamp.split(b".", 4)[3:4]
    return int(digits[0]) / 1e6 if digits and digits[0].isdigit() and len(digits[0]) <= 19 else None


def text_of(data: bytes, size: int, most: int) -> tuple[str, bool]:
    """Return a data field as text, and whether that is all of it.

    Args:
        data: what is kept of the field.
        size: the bytes of the whole field.
        most: how many bytes to show.
    """
    if data[:1] == b"\0":
        shown = data[1 : most // 2]
        return f"<{size - 1} bytes> {shown.hex()}", len(shown) == size - 1
    shown = data[:most]
    return shown.decode(errors="replace"), len(shown) == size
