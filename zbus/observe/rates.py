"""What the processes of a bus did between two looks at it: rates, from the numbers that they publish."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from math import inf
from typing import NamedTuple

import zbus

from ..protocol.patterns import Matcher

__all__ = ["ChannelRates", "Rates", "TopicRates", "rates"]

# A process publishes once a second. So when one that has published nothing for longer does, it was idle until
# a second before the first look at least.
_PUBLISHED_EVERY = 1.0
_NO_TOPIC = zbus.TopicNumbers("", "", 0, 0)
_NO_CHANNEL = zbus.ChannelNumbers(0, "", "", "", 0, 0, 0, 0, 0, None)
_NOTHING = zbus.Numbers(0.0, 0, 0, 0, 0, 0, 0, (), ())

Topic = tuple[str, str]
Sent = dict[Topic, tuple[int, int]]


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
    """Return the rates of each member that publishes numbers, by its id.

    Args:
        first, second: who was on the bus at either look.
        looked: when the first look was, in seconds since the epoch.
    """
    before = {peer.id: peer.numbers for peer in first if peer.numbers}
    after = {peer.id: peer.numbers for peer in second if peer.numbers}
    sent = _sent(after.values(), before)
    return {
        member: _between(before.get(member, _NOTHING), numbers, looked, sent)
        for member, numbers in after.items()
    }


def _sent(after: Iterable[zbus.Numbers], before: dict[str, zbus.Numbers]) -> Sent:
    """Return events and bytes that all processes have sent by topic: between the looks, else in all."""
    now, then = _by_topic(after), _by_topic(before.values())
    recent = {topic: _minus(counts, then.get(topic, (0, 0))) for topic, counts in now.items()}
    return {topic: recent[topic] if recent[topic][0] > 0 else counts for topic, counts in now.items()}


def _by_topic(every: Iterable[zbus.Numbers]) -> Sent:
    found: Sent = {}
    for numbers in every:
        for row in numbers.by_topic:
            events, size = found.get((row.system, row.kind), (0, 0))
            found[row.system, row.kind] = events + row.events, size + row.bytes
    return found


def _minus(counts: tuple[int, int], others: tuple[int, int]) -> tuple[int, int]:
    return counts[0] - others[0], counts[1] - others[1]


def _between(first: zbus.Numbers, second: zbus.Numbers, looked: float, sent: Sent) -> Rates:
    seconds = max(second.time - max(first.time, looked - _PUBLISHED_EVERY), 0.001)
    each = partial(_per, seconds if second.time > first.time else inf)
    topics = {(row.system, row.kind): row for row in first.by_topic}
    channels = {row.id: row for row in first.by_channel}
    by_topic = [
        TopicRates(row.system, row.kind, each(row.events, was.events), each(row.bytes, was.bytes))
        for row in second.by_topic
        for was in [topics.get((row.system, row.kind), _NO_TOPIC)]
    ]
    by_channel = [
        _channel(row, was, each(row.received, was.received), sent)
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


def _channel(row: zbus.ChannelNumbers, was: zbus.ChannelNumbers, received: float, sent: Sent) -> ChannelRates:
    size = _mean_size(row, sent)
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


def _mean_size(channel: zbus.ChannelNumbers, sent: Sent) -> float | None:
    """Return the mean bytes of the events that a channel selects, or `None` if nobody tells of any."""
    with suppress(zbus.Invalid):  # anybody may have written the pattern
        system, kind = Matcher(channel.system), Matcher(channel.kind)
        counts = [
            value for topic, value in sent.items() if system.matches(topic[0]) and kind.matches(topic[1])
        ]
        if events := sum(count for count, _ in counts):
            return sum(size for _, size in counts) / events
    return None
