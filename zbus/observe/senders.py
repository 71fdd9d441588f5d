"""Who sends an event, as `zbus why` tells it, and what is sent instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zbus

from ..runtime.process_state import process_state
from .mismatch import similar_names

__all__ = ["DEAD", "RUNNING", "STOPPED", "Publisher", "publishers", "similar_topics"]

RUNNING, STOPPED, DEAD = "running", "stopped", "dead"

_TOPICS_NAMED = 5


class Publisher(NamedTuple):
    """A member that has sent the event, or that was asked for.

    Attributes:
        process, pid, user, id: see `zbus.Peer`.
        events: how often it has sent it, under its latest origin.
        state: running, stopped or dead. Nothing comes from a stopped process; what it has sent before may
            still wait in it.
    """

    process: str
    pid: int
    user: str
    id: str
    events: int
    state: str


def publishers(members: Iterable[zbus.Peer], topic: tuple[str, str], *, every: bool) -> Iterator[Publisher]:
    """Yield those `members` that have sent `topic`, or with `every` all of them."""
    for peer in members:
        rows = peer.numbers.by_topic if peer.numbers is not None else ()
        events = sum(row.events for row in rows if (row.system, row.kind) == topic)
        if events or every:
            yield Publisher(peer.process, peer.pid, peer.user, peer.id, events, _state(peer))


def _state(peer: zbus.Peer) -> str:
    if not peer.alive:
        return DEAD
    state = process_state(peer.pid) if peer.pid else None
    return STOPPED if state is not None and state.stopped else RUNNING


def similar_topics(topic: tuple[str, str], members: Iterable[zbus.Peer]) -> list[tuple[str, str]]:
    """Return topics that somebody sends and that are like `topic`, the nearest first."""
    rows = (row for peer in members if peer.numbers is not None for row in peer.numbers.by_topic)
    sent = {(row.system, row.kind) for row in rows}
    systems = [topic[0], *similar_names(topic[0], (system for system, _ in sent))]
    kinds = [topic[1], *similar_names(topic[1], (kind for _, kind in sent))]
    near = [(systems.index(s) + kinds.index(k), (s, k)) for s, k in sent if s in systems and k in kinds]
    # Then the other kinds of the system, which is right at least.
    near += [(len(sent), (s, k)) for s, k in sent if s == topic[0] and k not in kinds]
    return [pair for _, pair in sorted(near)[:_TOPICS_NAMED] if pair != topic]
