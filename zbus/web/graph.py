"""Who sends what to whom, folded until it fits on a page: members, and systems with all below them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..observe.snapshot import Snapshot, TopicRow

__all__ = ["graph"]

_MOST_GROUPS = 24
_OTHERS = "others"


def graph(bus: Snapshot, without: int) -> dict[str, Any]:
    """Return members, by their ids, and groups of topics with the ids of those who send and select them.

    Args:
        bus: what to draw.
        without: the process id of a member that is not of interest, since it selects everything.
    """
    left_out = {row.id for row in bus.members if row.pid == without}
    members = {
        row.id: {"name": row.process, "pid": row.pid, "lost": row.lost, "alive": row.alive}
        for row in bus.members
        if row.id not in left_out
    }
    groups = [_group(name, rows, left_out) for name, rows in _folded(bus.topics).items()]
    return {"members": members, "groups": groups}


def _folded(topics: tuple[TopicRow, ...]) -> dict[str, list[TopicRow]]:
    """Return groups of topics by name, with as many parts of their systems as make few enough of them."""
    depth = max((row.system.count(".") + 1 for row in topics), default=1)
    while len(groups := _by_prefix(topics, depth)) > _MOST_GROUPS and depth > 1:
        depth -= 1
    if len(groups) <= _MOST_GROUPS:
        return groups
    busiest = sorted(groups, key=lambda name: -_rate(groups[name]))
    rest = [row for name in busiest[_MOST_GROUPS - 1 :] for row in groups[name]]
    return {name: groups[name] for name in sorted(busiest[: _MOST_GROUPS - 1])} | {_OTHERS: rest}


def _by_prefix(topics: tuple[TopicRow, ...], depth: int) -> dict[str, list[TopicRow]]:
    groups: dict[str, list[TopicRow]] = defaultdict(list)
    for row in sorted(topics, key=lambda row: (row.system, row.kind)):
        groups[".".join(row.system.split(".")[:depth])].append(row)
    return groups


def _rate(rows: list[TopicRow]) -> float:
    return sum(row.out or 0.0 for row in rows)


def _group(name: str, rows: list[TopicRow], left_out: set[str]) -> dict[str, Any]:
    return {
        "name": f"{name} {rows[0].kind}" if len(rows) == 1 and name == rows[0].system else name,
        "topics": len(rows),
        "rate": _rate(rows),
        "publishers": sorted({one for row in rows for one in row.publishers} - left_out),
        "subscribers": sorted({one for row in rows for one in row.subscribers} - left_out),
    }
