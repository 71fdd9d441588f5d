"""What the processes of a bus do: rates, from the numbers that they publish.

They are of the time between two looks, or, for who cannot wait, between the last two publications of each
process: its file holds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from math import inf
from typing import NamedTuple

import zbus

from ..roster.numbers import Publications
from .selection import Selection, Topic

__all__ = ["ChannelRates", "Rates", "TopicRates", "latest_rates", "rates"]

# A process publishes once a second. So when one that has published nothing for longer does, it was idle until
# a second before the first look at least.
_PUBLISHED_EVERY = 1.0
# Once a second may take longer on a busy machine, and with many topics: so many take a second more.
_PUBLISHED_LATE, _TOPICS_COUNTED = 3.0, 10_000
_NO_TOPIC = zbus.TopicNumbers("", "", 0, 0)
_NO_CHANNEL = zbus.ChannelNumbers(0, "", "", "", 0, 0, 0, 0, 0, None)
_NOTHING = zbus.Numbers(0.0, 0, 0, 0, 0, 0, 0, (), ())


class TopicRates(NamedTuple):
    """What a process sends to one topic.

    Attributes:
        system, kind: the topic.
        events, bytes: sent, each a second.
    """

    system: str
    kind: str
    events: float
    bytes: float


class ChannelRates(NamedTuple):
    """What a channel receives.

    Attributes:
        id, system, kind, overflow, unread: see `zbus.ChannelNumbers`.
        received: events a second.
        bytes: a second, estimated from the mean size of what was sent to topics that it selects; `None` if
            nobody tells.
        lost: events between the two looks.
    """

    id: int
    system: str
    kind: str
    overflow: str
    received: float
    bytes: float | None
    lost: int
    unread: float | None


class Rates(NamedTuple):
    """What a process sends and receives.

    Attributes:
        seconds: over how long that was measured.
        events, bytes: sent, each a second.
        received, received_bytes: by all channels together, each a second.
        lost: events between the two looks, by the channels that are open.
        unread: seconds, of the channel whose oldest event has waited longest; `None` if unknown.
        by_topic, by_channel: the busiest first.
    """

    seconds: float
    events: float
    bytes: float
    received: float
    received_bytes: float | None
    lost: int
    unread: float | None
    by_topic: tuple[TopicRates, ...]
    by_channel: tuple[ChannelRates, ...]


def rates(first: Iterable[zbus.Peer], second: Iterable[zbus.Peer], looked: float) -> dict[str, Rates]:
    """Return the rates between two looks of each member that publishes numbers, by its id.

    Args:
        first, second: who was on the bus at either look.
        looked: when the first look was, in seconds since the epoch.
    """
    before = {peer.id: peer.numbers for peer in first if peer.numbers}
    after = {peer.id: peer.numbers for peer in second if peer.numbers}
    means = _MeanSizes(after.values(), before.values())
    found = {}
    for member, numbers in after.items():
        was = before.get(member, _NOTHING)
        found[member] = _between(was, numbers, max(was.time, looked - _PUBLISHED_EVERY), means)
    return found


def latest_rates(publications: Mapping[str, Publications], now: float) -> dict[str, Rates]:
    """Return the rates of each member between its last two publications, by its id: one look is enough.

    A member that has published nothing for a while is idle. One that has published only once so far is left
    out, because nobody can tell since when it counts.

    Args:
        publications: of each member.
        now: seconds since the epoch.
    """
    after = {member: told.latest for member, told in publications.items() if told.latest}
    before = {member: told.former for member, told in publications.items() if told.former}
    means = _MeanSizes(after.values(), before.values())
    late = _PUBLISHED_LATE + sum(numbers.topics for numbers in after.values()) / _TOPICS_COUNTED
    found = {}
    for member, numbers in after.items():
        if now - numbers.time > late:
            found[member] = _between(numbers, numbers, numbers.time, means)
        elif (was := before.get(member)) is not None:
            recent = numbers.time - was.time <= late
            found[member] = _between(
                was, numbers, was.time if recent else numbers.time - _PUBLISHED_EVERY, means
            )
    return found


class _MeanSizes:
    """How large the events of each topic are: of late, or else on average."""

    def __init__(self, after: Iterable[zbus.Numbers], before: Iterable[zbus.Numbers]) -> None:
        now, then = _by_topic(after), _by_topic(before)
        recent = {topic: _minus(counts, then.get(topic, (0, 0))) for topic, counts in now.items()}
        self._sent = {
            topic: recent[topic] if recent[topic][0] > 0 else counts for topic, counts in now.items()
        }
        self._selection = Selection(now)

    def of(self, channel: zbus.ChannelNumbers) -> float | None:
        """Return the mean bytes of the events that a channel selects, or `None` if nobody tells of any."""
        counts = [self._sent[topic] for topic in self._selection.of(channel.system, channel.kind)]
        events = sum(count for count, _ in counts)
        return sum(size for _, size in counts) / events if events else None


def _by_topic(every: Iterable[zbus.Numbers]) -> dict[Topic, tuple[int, int]]:
    found: dict[Topic, tuple[int, int]] = {}
    for numbers in every:
        for row in numbers.by_topic:
            events, size = found.get((row.system, row.kind), (0, 0))
            found[row.system, row.kind] = events + row.events, size + row.bytes
    return found


def _minus(counts: tuple[int, int], others: tuple[int, int]) -> tuple[int, int]:
    return counts[0] - others[0], counts[1] - others[1]


def _between(first: zbus.Numbers, second: zbus.Numbers, since: float, means: _MeanSizes) -> Rates:
    """Return the rates of one process; it was idle from the first count until `since`."""
    seconds = max(second.time - since, 0.001)
    each = partial(_per, seconds if second.time > first.time else inf)
    topics = {(row.system, row.kind): row for row in first.by_topic}
    channels = {row.id: row for row in first.by_channel}
    by_topic = [
        TopicRates(row.system, row.kind, each(row.events, was.events), each(row.bytes, was.bytes))
        for row in second.by_topic
        for was in [topics.get((row.system, row.kind), _NO_TOPIC)]
    ]
    by_channel = [
        _channel(row, was, each(row.received, was.received), means.of(row))
        for row in second.by_channel
        for was in [channels.get(row.id, _NO_CHANNEL)]
    ]
    sizes = [row.bytes for row in by_channel if row.bytes is not None]
    ages = [row.unread for row in by_channel if row.unread is not None]
    return Rates(
        seconds=seconds,
        events=each(second.events, first.events),
        bytes=each(second.bytes, first.bytes),
        received=sum(row.received for row in by_channel),
        received_bytes=sum(sizes) if sizes else None,
        lost=sum(row.lost for row in by_channel),
        unread=max(ages, default=None),
        by_topic=tuple(sorted(by_topic, key=lambda row: -row.events)),
        by_channel=tuple(sorted(by_channel, key=lambda row: -row.received)),
    )


def _per(seconds: float, count: int, before: int) -> float:
    """Return what was counted a second; 0 if counting began anew."""
    return max(0, count - before) / seconds


def _channel(
    row: zbus.ChannelNumbers, was: zbus.ChannelNumbers, received: float, size: float | None
) -> ChannelRates:
    return ChannelRates(
        id=row.id,
        system=row.system,
        kind=row.kind,
        overflow=row.overflow,
        received=received,
        bytes=None if size is None else received * size,
        lost=max(0, row.lost - was.lost),
        unread=row.unread,
    )
