"""Who receives an event, and why the others do not: what `zbus why` tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import inf
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import zbus

from ..protocol.patterns import check_name
from ..runtime.process_state import greets, listening_process, process_state, waits_for_cpu
from .mismatch import compare, similar_names
from .places import other_buses

__all__ = [
    "DEAD",
    "LOSING",
    "NOT_SETTLED",
    "NO_MATCH",
    "RECEIVES",
    "STOPPED",
    "WAITING",
    "Elsewhere",
    "Listener",
    "Publisher",
    "Report",
    "explain",
]

RECEIVES, LOSING, WAITING = "receives", "losing", "waiting"
STOPPED, DEAD, NOT_SETTLED, NO_MATCH = "stopped", "dead", "not-settled", "no-match"
_RECEIVE = (RECEIVES, LOSING, WAITING)

# The oldest unread event of a channel that keeps up is younger than this, in seconds.
_BEHIND_SECONDS = 1.0
_TOPICS_NAMED = 5
# A process that has a CPU and does not greet so often in a row does not answer.
_MISSES = 8


class Listener(NamedTuple):
    """A subscriber, and what becomes of the event there.

    Attributes:
        process, pid, user, id, member, overflow: see `zbus.Peer`.
        system, kind: the patterns that select the event; if none does, those that come nearest. Empty if
            the subscriber tells none.
        verdict: one of the constants of this module.
        detail: what else is known, for people; may be empty.
        instead: of `NO_MATCH`: patterns of system and kind that would select the event, if they are like the
            nearest.
        lost: events that its channels with these patterns have lost so far.
        unread: how long the oldest event that waits there has waited, in seconds; `None` if unknown.
    """

    process: str
    pid: int
    user: str
    id: str
    member: str
    overflow: str
    system: str
    kind: str
    verdict: str
    detail: str
    instead: tuple[str, str] | None
    lost: int
    unread: float | None

    @property
    def receives(self) -> bool:
        """Whether the event arrives there."""
        return self.verdict in _RECEIVE


class Publisher(NamedTuple):
    """A member that has sent the event.

    Attributes:
        process, pid, user, id: see `zbus.Peer`.
        events: how often, under its latest origin.
    """

    process: str
    pid: int
    user: str
    id: str
    events: int


class Elsewhere(NamedTuple):
    """A subscriber of another bus whose patterns select the event.

    Attributes:
        bus, root: where it is.
        process, pid, user: who it is.
    """

    bus: str
    root: str
    process: str
    pid: int
    user: str


class Report(NamedTuple):
    """What becomes of an event.

    Attributes:
        path: the directory of the bus.
        listeners: every subscriber on the bus, or those that were asked for; those that receive it first.
        publishers: who has sent such events.
        similar: topics that somebody sends and that may have been meant, if nobody sends this one.
        elsewhere: who would receive it, but is on another bus. It is empty if somebody receives it here.
        members: how many members are alive.
    """

    path: Path
    listeners: list[Listener]
    publishers: list[Publisher]
    similar: list[tuple[str, str]]
    elsewhere: list[Elsewhere]
    members: int


def explain(
    system: str,
    kind: str,
    *,
    bus: str | None = None,
    dir: str | PathLike[str] | None = None,
    sender: str | None = None,
    receiver: str | None = None,
) -> Report:
    """Return who receives an event of `system` and `kind`, and why others do not.

    Args:
        system, kind: what is sent.
        bus, dir: as for `zbus.peers`.
        sender, receiver: look only at members with this id, process id or name.

    Raises:
        Invalid: no name that can be sent; or nobody is called like that.
        PermissionDenied, Unavailable: as for `zbus.peers`.
    """
    topic = check_name(system, "system"), check_name(kind, "kind")
    found = zbus.peers(bus, dir=dir)
    members = {peer.id: peer for peer in found if peer.role == "member"}
    senders = _called(sender, members.values())
    wanted = {peer.id for peer in _called(receiver, members.values())}
    subscribers = [
        peer for peer in found if peer.role == "subscriber" and (receiver is None or peer.member in wanted)
    ]
    listeners = [_listener(peer, members.get(peer.member), topic, found.path) for peer in subscribers]
    publishers = [*_publishers(senders, topic)]
    return Report(
        path=found.path,
        listeners=sorted(listeners, key=lambda row: (not row.receives, row.verdict, row.process, row.pid)),
        publishers=publishers,
        similar=[] if publishers else _similar(topic, members.values()),
        elsewhere=[] if any(row.receives for row in listeners) else [*_elsewhere(found.path, topic)],
        members=sum(peer.alive for peer in members.values()),
    )


def _called(name: str | None, members: Iterable[zbus.Peer]) -> list[zbus.Peer]:
    """Return the members with this id, process id or name; all if it is `None`."""
    every = list(members)
    if name is None:
        return every
    if chosen := [peer for peer in every if name in (peer.id, str(peer.pid), peer.process)]:
        return chosen
    there = ", ".join(sorted({f"{peer.process} ({peer.pid})" for peer in every})) or "nobody"
    raise zbus.Invalid(
        f"no member is called {name!r}: name one by its id, process id or process; there is {there}",
        value=name,
    )


def _listener(peer: zbus.Peer, member: zbus.Peer | None, topic: tuple[str, str], path: Path) -> Listener:
    match = _nearest(peer.patterns, topic)
    system, kind = match.pattern
    lost, unread = _numbers(member, peer.overflow, match.pattern)
    verdict, detail = _verdict(peer, path / f"{peer.id}.sock", match, lost, unread)
    return Listener(
        process=peer.process,
        pid=peer.pid,
        user=peer.user,
        id=peer.id,
        member=peer.member,
        overflow=peer.overflow,
        system=system,
        kind=kind,
        verdict=verdict,
        detail=detail,
        instead=match.instead if verdict == NO_MATCH and all(match.instead) else None,
        lost=lost,
        unread=unread,
    )


class _Match(NamedTuple):
    """The patterns of a subscriber that select an event, or come nearest to it."""

    distance: float
    pattern: tuple[str, str]
    why: str
    instead: tuple[str, str]


def _nearest(patterns: list[tuple[str, str]], topic: tuple[str, str]) -> _Match:
    found = [_Match(inf, ("", ""), "it does not tell its patterns", ("", ""))]
    for pattern in patterns:
        with suppress(zbus.Invalid):  # anybody may have written it
            system, kind = (compare(text, name) for text, name in zip(pattern, topic, strict=True))
            said = [f"{what}: {it.why}" for what, it in (("system", system), ("kind", kind)) if it.why]
            distance = system.distance + kind.distance
            found.append(_Match(distance, pattern, "; ".join(said), (system.instead, kind.instead)))
    return min(found, key=lambda match: match.distance)


def _verdict(
    peer: zbus.Peer, socket: Path, match: _Match, lost: int, unread: float | None
) -> tuple[str, str]:
    """Return the verdict on a subscriber, and what there is to say about it."""
    if match.distance:
        return NO_MATCH, match.why
    if not peer.alive:
        return DEAD, "its process has ended without closing; the next one that joins removes it"
    pid = listening_process(str(socket))
    state = process_state(pid)
    if state is not None and state.stopped:
        return STOPPED, f"its process is stopped: kill -CONT {peer.pid}"
    if not _answers(str(socket), pid):
        return NOT_SETTLED, "its process does not answer, so publishers give up waiting for it to join"
    behind = unread is not None and unread > _BEHIND_SECONDS
    waited = f"its oldest unread event has waited {unread:.1f} s" if behind else ""
    if lost:
        return LOSING, "; ".join(filter(None, [f"its queue was full: it has lost {lost:,} events", waited]))
    return (WAITING, waited) if behind else (RECEIVES, "")


def _answers(socket: str, pid: int) -> bool:
    """Return whether the listener at a socket greets a connection. One that waits for a CPU still may."""
    misses = 0
    while misses < _MISSES:
        before = process_state(pid)
        if greets(socket):
            return True
        after = process_state(pid)
        misses += not (before and after and waits_for_cpu(before, after))
    return False


def _numbers(member: zbus.Peer | None, overflow: str, pattern: tuple[str, str]) -> tuple[int, float | None]:
    """Return what the channels with these patterns have lost, and the age of their oldest unread event."""
    every = member.numbers.by_channel if member is not None and member.numbers is not None else ()
    rows = [row for row in every if (row.system, row.kind) == pattern and row.overflow == overflow]
    ages = [row.unread for row in rows if row.unread is not None]
    return sum(row.lost for row in rows), max(ages, default=None)


def _publishers(members: Iterable[zbus.Peer], topic: tuple[str, str]) -> Iterator[Publisher]:
    for peer in members:
        rows = peer.numbers.by_topic if peer.numbers is not None else ()
        if events := sum(row.events for row in rows if (row.system, row.kind) == topic):
            yield Publisher(peer.process, peer.pid, peer.user, peer.id, events)


def _similar(topic: tuple[str, str], members: Iterable[zbus.Peer]) -> list[tuple[str, str]]:
    """Return topics that somebody sends and that are like `topic`, the nearest first."""
    rows = (row for peer in members if peer.numbers is not None for row in peer.numbers.by_topic)
    sent = {(row.system, row.kind) for row in rows}
    systems = [topic[0], *similar_names(topic[0], (system for system, _ in sent))]
    kinds = [topic[1], *similar_names(topic[1], (kind for _, kind in sent))]
    near = [(systems.index(s) + kinds.index(k), (s, k)) for s, k in sent if s in systems and k in kinds]
    # Then the other kinds of the system, which is right at least.
    near += [(len(sent), (s, k)) for s, k in sent if s == topic[0] and k not in kinds]
    return [pair for _, pair in sorted(near)[:_TOPICS_NAMED]]


def _elsewhere(path: Path, topic: tuple[str, str]) -> Iterator[Elsewhere]:
    for name, root in other_buses(path):
        with suppress(zbus.Error):
            for peer in zbus.peers(name, dir=root):
                if peer.role == "subscriber" and peer.alive and _selects(peer, topic):
                    yield Elsewhere(name, str(root), peer.process, peer.pid, peer.user)


def _selects(peer: zbus.Peer, topic: tuple[str, str]) -> bool:
    return _nearest(peer.patterns, topic).distance == 0
