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
from ..roster.location import VERSION
from ..roster.numbers import Publications
from ..roster.process_info import user_name
from ..runtime.process_state import greets, listening_process, process_state, waits_for_cpu
from .losses import Losses, losses
from .mismatch import compare
from .places import listening_buses, other_buses
from .senders import DEAD, RUNNING, STOPPED, Publisher, publishers, similar_topics
from .snapshot import Look, look

__all__ = [
    "LOSING",
    "NOT_SETTLED",
    "NO_MATCH",
    "RECEIVES",
    "UNKNOWN",
    "WAITING",
    "Closed",
    "Elsewhere",
    "Listener",
    "Report",
    "explain",
]

RECEIVES, LOSING, WAITING = "receives", "losing", "waiting"
NOT_SETTLED, NO_MATCH, UNKNOWN = "not-settled", "no-match", "unknown"  # or STOPPED or DEAD
_RECEIVE = (RECEIVES, LOSING, WAITING)

# The oldest unread event of a channel that keeps up is younger than this, in seconds.
_BEHIND_SECONDS = 1.0
# A roster entry tells this many patterns at most.
_PATTERNS_TOLD = 100
# A process that has a CPU and does not greet so often in a row does not answer.
_MISSES = 8


class Listener(NamedTuple):
    """A subscriber, and what becomes of the event there.

    Attributes:
        process, pid, user, id, member, overflow: see `zbus.Peer`.
        system, kind: the patterns that select the event; if none does, those that come nearest. Empty if
            the subscriber tells none.
        verdict: one of the constants of this module, or `STOPPED` or `DEAD`.
        detail: what else is known, for people; may be empty.
        instead: of `NO_MATCH`: patterns of system and kind that would select the event, if they are like the
            nearest.
        lost: events that its channels with these patterns have lost since they subscribed.
        quiet: for how many seconds they have lost none, at least; `None` if they have never lost any.
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
    quiet: float | None
    unread: float | None

    @property
    def receives(self) -> bool:
        """Whether the event arrives there."""
        return self.verdict in _RECEIVE


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


class Closed(NamedTuple):
    """A bus on which somebody listens, and that this process may not look at.

    Attributes:
        bus, root: where it is.
        user: whose it is.
    """

    bus: str
    root: str
    user: str


class Report(NamedTuple):
    """What becomes of an event.

    Attributes:
        path: the directory of the bus.
        listeners: every subscriber on the bus, or those that were asked for; those that receive it first.
        publishers: who has sent such events, or those that were asked for.
        halted: whether each of them is stopped, or dead if they were asked for: nothing comes from them now.
        similar: topics that somebody sends and that may have been meant, if nobody sends this one.
        elsewhere: who would receive it, but is on another bus. It is empty if somebody receives it here.
        closed: buses of other users where somebody may. It is empty if somebody receives it here.
        members: how many members are alive.
    """

    path: Path
    listeners: list[Listener]
    publishers: list[Publisher]
    halted: bool
    similar: list[tuple[str, str]]
    elsewhere: list[Elsewhere]
    closed: list[Closed]
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
    seen = look(bus, dir)
    members = {peer.id: peer for peer in seen.peers if peer.role == "member"}
    senders = _called(sender, members.values())
    wanted = {peer.id for peer in _called(receiver, members.values())}
    subscribers = [
        peer
        for peer in seen.peers
        if peer.role == "subscriber" and (receiver is None or peer.member in wanted)
    ]
    listeners = [_listener(peer, seen, topic) for peer in subscribers]
    sending = [*publishers(senders, topic, every=sender is not None)]
    path, received = seen.peers.path, any(row.receives for row in listeners)
    return Report(
        path=path,
        listeners=sorted(listeners, key=lambda row: (not row.receives, row.verdict, row.process, row.pid)),
        publishers=sending,
        halted=_halted(sending, asked=sender is not None),
        similar=[] if any(row.events for row in sending) else similar_topics(topic, senders),
        elsewhere=[] if received else [*_elsewhere(path, topic)],
        closed=[] if received else [*_closed()],
        members=sum(peer.alive for peer in members.values()),
    )


def _halted(sending: list[Publisher], *, asked: bool) -> bool:
    """Return whether nothing comes from these. Of who has sent it and is dead, another may take the place."""
    if any(row.state == RUNNING for row in sending):
        return False
    return any(asked or row.state == STOPPED for row in sending)


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


def _listener(peer: zbus.Peer, seen: Look, topic: tuple[str, str]) -> Listener:
    told = seen.publications.get(peer.member, Publications(None, None))
    patterns, all_told = _patterns(peer, told.latest)
    match = _nearest(patterns, topic)
    system, kind = match.pattern
    counts = losses(told, peer.overflow, match.pattern, seen.time)
    if match.distance and not all_told:
        verdict, detail = UNKNOWN, "it has more patterns than it tells"
    else:
        verdict, detail = _verdict(peer, seen.peers.path / f"{peer.id}.sock", match, counts)
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
        lost=counts.lost,
        quiet=counts.quiet,
        unread=counts.unread,
    )


def _patterns(peer: zbus.Peer, numbers: zbus.Numbers | None) -> tuple[list[tuple[str, str]], bool]:
    """Return the patterns that a subscriber tells, and whether these are all it has.

    Its roster entry tells the first ones of all; the numbers of its member have room for more.
    """
    channels = () if numbers is None else numbers.by_channel
    more = ((row.system, row.kind) for row in channels if row.overflow == peer.overflow)
    patterns = list(dict.fromkeys([*peer.patterns, *more]))
    if numbers is None:
        return patterns, 0 < len(patterns) < _PATTERNS_TOLD
    return patterns, bool(patterns) and numbers.channels <= max(len(channels), len(peer.patterns))


class _Match(NamedTuple):
    """The patterns of a subscriber that select an event, or come nearest to it."""

    distance: float
    pattern: tuple[str, str]
    why: str
    instead: tuple[str, str]


def _nearest(patterns: list[tuple[str, str]], topic: tuple[str, str]) -> _Match:
    found = [_Match(inf, ("", ""), "", ("", ""))]
    for pattern in patterns:
        with suppress(zbus.Invalid):  # anybody may have written it
            system, kind = (compare(text, name) for text, name in zip(pattern, topic, strict=True))
            said = [f"{what}: {it.why}" for what, it in (("system", system), ("kind", kind)) if it.why]
            distance = system.distance + kind.distance
            found.append(_Match(distance, pattern, "; ".join(said), (system.instead, kind.instead)))
    return min(found, key=lambda match: match.distance)


def _verdict(peer: zbus.Peer, socket: Path, match: _Match, counts: Losses) -> tuple[str, str]:
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
    return _reading(counts)


def _reading(counts: Losses) -> tuple[str, str]:
    """Return the verdict on a subscriber that gets the event into its queue if that has room."""
    behind = counts.unread is not None and counts.unread > _BEHIND_SECONDS
    waited = f"its oldest unread event has waited {counts.unread:.1f} s" if behind else ""
    if counts.quiet is None:
        return (WAITING, waited) if behind else (RECEIVES, "")
    if behind or not counts.quiet:
        said = f"its queue was full: it has lost {counts.lost:,} events"
        return LOSING, "; ".join(filter(None, [said, waited]))
    return RECEIVES, f"it has lost {counts.lost:,} events since it subscribed, none for {counts.quiet:.0f} s"


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


def _elsewhere(path: Path, topic: tuple[str, str]) -> Iterator[Elsewhere]:
    for name, root in other_buses(path):
        with suppress(zbus.Error):
            for peer in zbus.peers(name, dir=root):
                if peer.role == "subscriber" and peer.alive and _selects(peer, topic):
                    yield Elsewhere(name, str(root), peer.process, peer.pid, peer.user)


def _selects(peer: zbus.Peer, topic: tuple[str, str]) -> bool:
    return _nearest(peer.patterns, topic).distance == 0


def _closed() -> Iterator[Closed]:
    for name, root in listening_buses():
        try:
            zbus.peers(name, dir=root)
        except zbus.PermissionDenied:
            yield Closed(name, str(root), _owner(root))
        except zbus.Error:
            pass


def _owner(root: Path) -> str:
    """Return whose a root is, by the nearest directory that tells."""
    for directory in (root / VERSION, root, *root.parents):
        with suppress(OSError):
            return user_name(directory.lstat().st_uid)
    return "another user"
