"""What a bus counts, as families of metrics: names, labels and values, for whatever writes them down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zbus

from ..roster.numbers import LinkCounts
from ..roster.process_info import visible
from .snapshot import Look, channels

__all__ = ["Family", "families"]

_BUS = ("bus",)
_MEMBER = ("bus", "member", "process")
_TOPIC = (*_MEMBER, "system", "kind")
_CHANNEL = (*_MEMBER, "channel", "system", "kind", "overflow")

Labels = tuple[str, ...]


class Family(NamedTuple):
    """Samples of one metric.

    Attributes:
        name: without the suffix that the format adds to counters.
        type: `counter`, `gauge` or `info`.
        help: what it counts.
        labels: the names of the labels.
        samples: the value by the values of the labels; those of `info` are always 1.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    samples: dict[Labels, float]


class _Member(NamedTuple):
    peer: zbus.Peer
    labels: Labels
    numbers: zbus.Numbers | None


def families(look: Look) -> Iterator[Family]:
    """Yield what the members that are alive have counted, as of a look."""
    bus = look.peers.path.name
    members = [
        _Member(peer, (bus, peer.id, visible(peer.process)), look.publications[peer.id].latest)
        for peer in look.peers
        if peer.role == "member" and peer.alive and peer.id in look.publications
    ]
    yield Family("zbus_members", "gauge", "Members that are alive.", _BUS, {(bus,): float(len(members))})
    yield _info(members)
    yield from _member_counters(members)
    telling = [(member, member.numbers) for member in members if member.numbers is not None]
    yield from _member_numbers(telling)
    yield from _topics(telling)
    yield from _channels(telling, look)
    yield from _links([(member, numbers.link) for member, numbers in telling if numbers.link is not None])


def _info(members: list[_Member]) -> Family:
    samples = {
        (*member.labels, str(member.peer.pid), visible(member.peer.user), visible(member.peer.language)): 1.0
        for member in members
    }
    labels = (*_MEMBER, "pid", "user", "language")
    return Family("zbus_member", "info", "Who a member is.", labels, samples)


_COUNTERS = {
    "lost": ("zbus_lost_events", "Events lost by all channels of a member."),
    "malformed": ("zbus_malformed_frames", "Malformed frames received by a member."),
    "join_timeouts": ("zbus_join_timeouts", "Subscribers that did not finish joining in time."),
    "send_timeouts": ("zbus_send_timeouts", "Events refused because a subscriber made no room."),
    "mismatched": ("zbus_mismatched_events", "Events received whose data was not of the type asked for."),
}


def _member_counters(members: list[_Member]) -> Iterator[Family]:
    for counter, (name, text) in _COUNTERS.items():
        samples = {
            member.labels: float(member.peer.counters[counter])
            for member in members
            if counter in member.peer.counters
        }
        yield Family(name, "counter", text, _MEMBER, samples)


Telling = list[tuple[_Member, zbus.Numbers]]


def _of_members(
    telling: Iterable[tuple[_Member, object]], *rows: tuple[str, str, str, str]
) -> Iterator[Family]:
    """Yield a family for each row: its name, its kind, what it tells, and the field that has it."""
    for name, kind, text, field in rows:
        samples = {member.labels: float(getattr(numbers, field)) for member, numbers in telling}
        yield Family(name, kind, text, _MEMBER, samples)


def _member_numbers(telling: Telling) -> Iterator[Family]:
    return _of_members(
        telling,
        ("zbus_sent_events", "counter", "Events sent by a member.", "events"),
        ("zbus_sent_bytes", "counter", "Bytes of frames sent by a member.", "bytes"),
        ("zbus_sent_topics", "gauge", "Topics that a member has sent to.", "topics"),
        ("zbus_open_channels", "gauge", "Channels that a member has open.", "channels"),
        ("zbus_joins", "counter", "How often a subscriber joined that a member sends to.", "joins"),
        ("zbus_published_timestamp_seconds", "gauge", "When a member last had news.", "time"),
    )


def _topics(telling: Telling) -> Iterator[Family]:
    rows = {
        (*member.labels, visible(row.system), visible(row.kind)): row
        for member, numbers in telling
        for row in numbers.by_topic
    }
    events = {labels: float(row.events) for labels, row in rows.items()}
    yield Family("zbus_topic_sent_events", "counter", "Events sent by a member to a topic.", _TOPIC, events)
    size = {labels: float(row.bytes) for labels, row in rows.items()}
    yield Family("zbus_topic_sent_bytes", "counter", "Bytes sent by a member to a topic.", _TOPIC, size)


def _channels(telling: Telling, look: Look) -> Iterator[Family]:
    rows = {
        (*member.labels, str(row.id), *map(visible, (row.system, row.kind, row.overflow))): (row, age)
        for member, numbers in telling
        for row, age in channels(numbers, look)
    }
    for name, text, field in (
        ("zbus_channel_received_events", "Events that a channel has received.", "received"),
        ("zbus_channel_lost_events", "Events that a channel has lost.", "lost"),
        ("zbus_channel_malformed_frames", "Malformed frames that a channel has received.", "malformed"),
        ("zbus_channel_superseded_events", "Events that a newer one has replaced.", "superseded"),
        ("zbus_channel_mismatched_events", "Events whose data was not of the type asked for.", "mismatched"),
    ):
        samples = {labels: float(getattr(row, field)) for labels, (row, _) in rows.items()}
        yield Family(name, "counter", text, _CHANNEL, samples)
    unread = {labels: age for labels, (_, age) in rows.items() if age is not None}
    text = "How long the oldest unread event of a channel has waited."
    yield Family("zbus_channel_unread_seconds", "gauge", text, _CHANNEL, unread)


def _links(links: list[tuple[_Member, LinkCounts]]) -> Iterator[Family]:
    """Yield what the links to other machines tell; nothing if there is none."""
    if not links:
        return
    yield from _of_members(
        links,
        ("zbus_link_sent_events", "counter", "Events that the other side of a link has taken.", "sent"),
        ("zbus_link_received_events", "counter", "Events that a link has brought in.", "received"),
        ("zbus_link_refused_events", "counter", "Events that a link has left out.", "refused"),
        ("zbus_link_dropped_events", "counter", "Events not carried: the other side was down.", "dropped"),
        ("zbus_link_repeated_events", "counter", "Events that came again and were left out.", "repeated"),
        ("zbus_link_reconnects", "counter", "How often a link has connected again.", "reconnects"),
        ("zbus_link_waiting_events", "gauge", "Events that the other side has not taken yet.", "waiting"),
        ("zbus_link_behind_messages", "gauge", "Messages that wait on the other side.", "behind"),
        ("zbus_link_lag_seconds", "gauge", "How long the oldest waiting event has waited.", "lag"),
    )
    connected = {member.labels: float(bool(link.server)) for member, link in links}
    yield Family("zbus_link_connected", "gauge", "1 while a link is connected, else 0.", _MEMBER, connected)
