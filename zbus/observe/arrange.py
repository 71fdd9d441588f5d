"""Which rows of a snapshot to show, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import zbus

from ..protocol.patterns import Matcher, overlaps
from .snapshot import MemberRow, Snapshot, TopicRow

__all__ = ["SORT_KEYS", "filtered", "ordered"]

_MEMBER_KEYS: dict[str, Callable[[MemberRow], Any]] = {
    "rate": lambda row: -_sum(row.out, row.received),
    "out": lambda row: -_sum(row.out),
    "in": lambda row: -_sum(row.received),
    "bytes": lambda row: -_sum(row.out_bytes, row.received_bytes),
    "lost": lambda row: (-_sum(row.losing), -row.lost),
    "lag": lambda row: -_sum(row.lag),
    "name": lambda row: 0,  # noqa: ARG005
}
_TOPIC_KEYS: dict[str, Callable[[TopicRow], Any]] = {
    "rate": lambda row: (-_sum(row.out), -row.sent_total),
    "bytes": lambda row: -_sum(row.out_bytes),
    "lost": lambda row: -row.lost,
    "lag": lambda row: -_sum(row.lag),
    "name": lambda row: 0,  # noqa: ARG005
}

SORT_KEYS = tuple(_MEMBER_KEYS)
"""What rows can be sorted by. Topics are sorted by `rate` where a key says nothing of them."""


def ordered(bus: Snapshot, key: str) -> Snapshot:
    """Return the same rows, those with most of `key` first; rows that are equal in it, by name."""
    member, topic = _MEMBER_KEYS[key], _TOPIC_KEYS.get(key, _TOPIC_KEYS["rate"])
    return bus._replace(
        members=tuple(sorted(bus.members, key=lambda row: (member(row), row.process, row.pid, row.id))),
        topics=tuple(sorted(bus.topics, key=lambda row: (topic(row), row.system, row.kind))),
    )


def _sum(*values: float | None) -> float:
    return sum(value or 0.0 for value in values)


def filtered(bus: Snapshot, wanted: str) -> Snapshot:
    """Return the topics that `wanted` selects, and the members that have to do with them.

    Args:
        bus: what to select from.
        wanted: a pattern of systems if it has a `*` or a bracket; else a part of the name of a system, kind,
            process or user in any letter case, or a process id, or the id of a member.

    Raises:
        Invalid: it is a malformed pattern.
    """
    if any(char in wanted for char in "*(|)"):
        return _by_pattern(bus, Matcher(wanted, "system pattern"))
    text = wanted.casefold()
    named = {row.id for row in bus.members if _is_named(row, text)}
    topics = tuple(
        row for row in bus.topics if _has(text, row.system, row.kind) or not named.isdisjoint(row.publishers)
    )
    concerned = named | {member for row in topics for member in row.publishers}
    members = tuple(row for row in bus.members if row.id in concerned or _has(text, *_patterns(row)))
    return bus._replace(members=members, topics=topics)


def _is_named(row: MemberRow, text: str) -> bool:
    return text in (row.id, str(row.pid)) or _has(text, row.process, row.user)


def _patterns(row: MemberRow) -> Iterable[str]:
    return (name for pattern in row.patterns for name in pattern[:2])


def _has(text: str, *names: str) -> bool:
    return any(text in name.casefold() for name in names)


def _by_pattern(bus: Snapshot, wanted: Matcher) -> Snapshot:
    topics = tuple(row for row in bus.topics if wanted.matches(row.system))
    concerned = {member for row in topics for member in (*row.publishers, *row.subscribers)}
    members = tuple(row for row in bus.members if row.id in concerned or _listens(row, wanted))
    return bus._replace(members=members, topics=topics)


def _listens(row: MemberRow, wanted: Matcher) -> bool:
    return any(_overlap(system, wanted) for system in {pattern.system for pattern in row.patterns})


def _overlap(system: str, wanted: Matcher) -> bool:
    with suppress(zbus.Invalid):  # anybody may have written it
        return overlaps(Matcher(system), wanted)
    return False
