"""Who sends what to whom, as the page draws it: the graph of `zbus graph`, with what each member has lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ..observe.drawing import label, unheard
from ..observe.graph import graph_of
from ..observe.snapshot import Snapshot, TopicRow

__all__ = ["graph"]


def graph(bus: Snapshot, without: int) -> dict[str, Any]:
    """Return members by their ids, and topics with the ids of those who send and select them.

    Args:
        bus: what to draw.
        without: the process id of a member that is not of interest, since it selects everything.
    """
    left_out = {row.id for row in bus.members if row.pid == without}
    lost = {row.id: row.lost for row in bus.members}
    found = graph_of(
        bus._replace(
            members=tuple(row for row in bus.members if row.id not in left_out),
            topics=tuple(_among_others(row, left_out) for row in bus.topics),
        )
    )
    members = {}
    for member in found.members:
        name, note = label(member)
        losses = sum(lost[one] for one in member.members)
        members[member.id] = {"name": name, "note": note, "lost": losses, "alive": member.alive}
    publishers = _ends((edge.target, edge.source) for edge in found.sends)
    subscribers = _ends((edge.source, edge.target) for edge in found.receives)
    faint = unheard(found) | {topic.id for topic in found.topics if not topic.topics}
    topics = []
    for topic in found.topics:
        name, note = label(topic)
        concerned = {"publishers": publishers[topic.id], "subscribers": subscribers[topic.id]}
        topics.append(
            {"name": name, "note": note, "rate": topic.rate or 0.0, "faint": topic.id in faint, **concerned}
        )
    return {"members": members, "topics": topics}


def _among_others(row: TopicRow, left_out: set[str]) -> TopicRow:
    """Return a topic without these publishers and subscribers."""
    if left_out.isdisjoint(row.publishers + row.subscribers):
        return row
    pairs = zip(row.publishers, row.publisher_rates, strict=True)
    senders = [(one, rate) for one, rate in pairs if one not in left_out]
    return row._replace(
        publishers=tuple(one for one, _ in senders),
        publisher_rates=tuple(rate for _, rate in senders),
        subscribers=tuple(one for one in row.subscribers if one not in left_out),
    )


def _ends(pairs: Iterable[tuple[str, str]]) -> defaultdict[str, list[str]]:
    """Return the other ends of the edges of each topic."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for topic, member in pairs:
        found[topic].append(member)
    return found
