"""A look at a whole bus: its members, and its topics with those who send and those who receive them.

Nothing of it disturbs anybody: it is what the files of the bus directory say, put together. A member file
holds the last two publications, so one look is enough for rates.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zbus

from ..roster.numbers import LinkCounts, Publications, read_publications
from ..roster.process_info import Pattern
from .rates import Rates, TopicRates, latest_rates, rates
from .selection import Selection, Topic

__all__ = ["Look", "MemberRow", "Snapshot", "TopicRow", "channels", "look", "snapshot"]

# Who has unread events publishes once a second how long they have waited, unless the process stands still.
_STANDS_STILL = 3.0


class Look(NamedTuple):
    """What the files of a bus said.

    Attributes:
        time: when, in seconds since the epoch.
        peers: who was on the bus.
        publications: the last two of each member, by its id.
    """

    time: float
    peers: zbus.Peers
    publications: dict[str, Publications]


class MemberRow(NamedTuple):
    """A process on the bus. What it does not tell is `None`.

    Attributes:
        id: of its member; of the subscriber's ingress if it has no member.
        process, pid, user, language, alive: as in `zbus.Peer`.
        out, out_bytes: events and bytes sent, each a second.
        received, received_bytes: events and bytes received, each a second; the bytes are an estimate.
        lost: events lost so far.
        losing: events lost, a second.
        lag: seconds for which the oldest unread event has waited.
        sent_total, received_total: events so far; received by the channels that are open.
        patterns: what its channels select.
        link: what it has carried, if it is a link to other machines.
    """

    id: str
    process: str
    pid: int
    user: str
    language: str
    alive: bool
    out: float | None
    out_bytes: float | None
    received: float | None
    received_bytes: float | None
    lost: int
    losing: float | None
    lag: float | None
    sent_total: int | None
    received_total: int | None
    patterns: tuple[Pattern, ...]
    link: LinkCounts | None = None


class TopicRow(NamedTuple):
    """A topic that somebody has sent to.

    Attributes:
        system, kind: its names.
        out, out_bytes: events and bytes sent by all members, each a second; `None` if nobody can tell yet.
        size: mean bytes of an event; `None` if there was none.
        sent_total: events so far, of publishers under their latest origin.
        publishers: the ids of the members that have sent to it.
        subscribers: the ids of the members that select it.
        lag: of the channels that select it, seconds for which the oldest unread event has waited, whatever
            its topic; `None` if unknown.
        lost: of these channels, events lost so far, whatever their topic.
        publisher_rates: events a second that each of the publishers sends; `None` if nobody can tell yet.
    """

    system: str
    kind: str
    out: float | None
    out_bytes: float | None
    size: float | None
    sent_total: int
    publishers: tuple[str, ...]
    subscribers: tuple[str, ...]
    lag: float | None
    lost: int
    publisher_rates: tuple[float | None, ...] = ()


class Snapshot(NamedTuple):
    """A bus as of `time`, in seconds since the epoch, in the directory `path`."""

    bus: str
    path: str
    time: float
    members: tuple[MemberRow, ...]
    topics: tuple[TopicRow, ...]


def look(bus: str | None, directory: str | os.PathLike[str] | None) -> Look:
    """Look at a bus; raise as `zbus.peers` does."""
    peers = zbus.peers(bus, dir=directory)
    members = [peer.id for peer in peers if peer.role == "member"]
    publications = {member: read_publications(peers.path / f"{member}.member") for member in members}
    return Look(time.time(), peers, publications)


def snapshot(now: Look, before: Look | None = None) -> Snapshot:
    """Put together what a look has found.

    Args:
        now: the look.
        before: an earlier one, for rates of the time in between; if `None`, of the last second.
    """
    told = latest_rates(now.publications, now.time)
    if before is not None:
        told |= rates(before.peers, now.peers, before.time)
    patterns = _patterns(now.peers)
    members = [
        _member(peer, now, told.get(peer.id), patterns.get(peer.id, ())) for peer in _owners(now.peers)
    ]
    path = now.peers.path
    return Snapshot(path.name, str(path), now.time, tuple(members), tuple(_topics(now, told, members)))


def _owners(peers: zbus.Peers) -> Iterable[zbus.Peer]:
    """Return one peer for each process: its member, or else its subscriber."""
    members = {peer.id for peer in peers if peer.role == "member"}
    found: dict[str, zbus.Peer] = {}
    for peer in peers:
        if peer.role == "member" or peer.member not in members:
            found.setdefault(peer.id, peer)
    return found.values()


def _patterns(peers: zbus.Peers) -> dict[str, tuple[Pattern, ...]]:
    """Return what the channels of each process select, by its id as in `_owners`."""
    members = {peer.id for peer in peers if peer.role == "member"}
    found: dict[str, tuple[Pattern, ...]] = {}
    for peer in peers:
        owner = peer.member if peer.member in members else peer.id
        mine = tuple(Pattern(system, kind, peer.overflow) for system, kind in peer.patterns)
        found[owner] = found.get(owner, ()) + mine
    return found


def _member(peer: zbus.Peer, now: Look, told: Rates | None, patterns: tuple[Pattern, ...]) -> MemberRow:
    numbers = now.publications[peer.id].latest if peer.id in now.publications else None
    ages = [age for _, age in channels(numbers, now) if age is not None]
    return MemberRow(
        id=peer.id,
        process=peer.process,
        pid=peer.pid,
        user=peer.user,
        language=peer.language,
        alive=peer.alive,
        out=told and told.events,
        out_bytes=told and told.bytes,
        received=told and told.received,
        received_bytes=told and told.received_bytes,
        lost=peer.counters.get("lost", 0),
        losing=told and told.lost / told.seconds,
        lag=max(ages, default=None),
        sent_total=numbers and numbers.events,
        received_total=numbers and numbers.received,
        patterns=patterns,
        link=numbers and numbers.link,
    )


def channels(numbers: zbus.Numbers | None, now: Look) -> Iterator[tuple[zbus.ChannelNumbers, float | None]]:
    """Yield each open channel of a member, and how long its oldest unread event has waited by now.

    A process that stands still says nothing new, but what it has not read gets older.

    Args:
        numbers: what the member published last.
        now: the look that found them.
    """
    if numbers:
        silent = now.time - numbers.time
        for row in numbers.by_channel:
            yield row, row.unread + silent if row.unread and silent > _STANDS_STILL else row.unread


class _Sent:
    """What all members together have sent to one topic."""

    def __init__(self) -> None:
        self.publishers: dict[str, float | None] = {}
        self.events = self.bytes = 0
        self.rate = self.byte_rate = 0.0
        self.known = False

    def add(self, member: str, row: zbus.TopicNumbers) -> None:
        self.publishers[member] = None
        self.events += row.events
        self.bytes += row.bytes

    def add_rates(self, member: str, row: TopicRates) -> None:
        self.publishers[member] = row.events
        self.rate += row.events
        self.byte_rate += row.bytes
        self.known = True


class _Selecting:
    """The channels of all members that have one pair of patterns."""

    def __init__(self) -> None:
        self.owners: set[str] = set()
        self.lag: float | None = None
        self.lost = 0

    def add(self, lag: float | None, lost: int) -> None:
        self.lag = lag if self.lag is None else max(self.lag, lag or 0.0)
        self.lost += lost

    @staticmethod
    def joined(every: Iterable[_Selecting]) -> tuple[tuple[str, ...], float | None, int]:
        """Return the owners of all, the longest lag, and the sum of what was lost."""
        owners = sorted(set[str]().union(*(one.owners for one in every)))
        lags = [one.lag for one in every if one.lag is not None]
        return tuple(owners), max(lags, default=None), sum(one.lost for one in every)


def _topics(now: Look, told: dict[str, Rates], members: list[MemberRow]) -> Iterator[TopicRow]:
    sent: dict[Topic, _Sent] = defaultdict(_Sent)
    for member, (latest, _) in now.publications.items():
        for row in latest.by_topic if latest else ():
            sent[row.system, row.kind].add(member, row)
        for rate in told[member].by_topic if member in told else ():
            sent[rate.system, rate.kind].add_rates(member, rate)
    selecting = _selecting(now, members)
    selection = Selection(sent)
    keys: dict[Topic, list[Topic]] = defaultdict(list)
    for patterns in selecting:
        for topic in selection.of(*patterns):
            keys[topic].append(patterns)
    # Many topics are selected by the same patterns, so each set of these is joined once.
    joined = {
        each: _Selecting.joined([selecting[key] for key in each]) for each in {*map(tuple, keys.values()), ()}
    }
    for (system, kind), of in sent.items():
        subscribers, lag, lost = joined[tuple(keys.get((system, kind), ()))]
        yield TopicRow(
            system=system,
            kind=kind,
            out=of.rate if of.known else None,
            out_bytes=of.byte_rate if of.known else None,
            size=of.bytes / of.events if of.events else None,
            sent_total=of.events,
            publishers=tuple(of.publishers),
            subscribers=subscribers,
            lag=lag,
            lost=lost,
            publisher_rates=tuple(of.publishers.values()),
        )


def _selecting(now: Look, members: list[MemberRow]) -> dict[tuple[str, str], _Selecting]:
    """Return the channels of all members that are alive, by their patterns."""
    found: dict[tuple[str, str], _Selecting] = defaultdict(_Selecting)
    for member in members:
        if member.alive:
            for system, kind, _ in member.patterns:
                found[system, kind].owners.add(member.id)
            numbers = now.publications[member.id].latest if member.id in now.publications else None
            for row, age in channels(numbers, now):
                selecting = found[row.system, row.kind]
                selecting.owners.add(member.id)
                selecting.add(age, row.lost)
    return found
