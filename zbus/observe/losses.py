"""What the channels of a subscriber have lost, and whether they are losing now.

A member counts what it has lost since it subscribed. Whether that goes on, its last two publications tell.
"""

from __future__ import annotations

from typing import NamedTuple

from ..roster.numbers import Numbers, Publications

__all__ = ["Losses", "losses"]

# Processes publish once a second; on a busy machine later.
_JUST_NOW_SECONDS = 10.0


class Losses(NamedTuple):
    """What channels with the same patterns have lost.

    Attributes:
        lost: how many events, since they subscribed.
        quiet: for how many seconds they have lost none, at least; 0 if they just have. `None` if they have
            never lost any.
        unread: how long the oldest event that waits there has waited, in seconds; `None` if unknown.
    """

    lost: int
    quiet: float | None
    unread: float | None


def losses(told: Publications, overflow: str, pattern: tuple[str, str], now: float) -> Losses:
    """Return what the channels of a member with this `pattern` have lost; `now` is the time of day."""
    latest = told.latest
    if latest is None:
        return Losses(0, None, None)
    lost, unread = _counted(latest, overflow, pattern)
    if not lost:
        return Losses(0, None, unread)
    before = 0 if told.former is None else _counted(told.former, overflow, pattern)[0]
    if told.former is not None and lost <= before:
        return Losses(lost, max(0.0, now - told.former.time), unread)
    quiet = max(0.0, now - latest.time)
    return Losses(lost, quiet if quiet > _JUST_NOW_SECONDS else 0.0, unread)


def _counted(numbers: Numbers, overflow: str, pattern: tuple[str, str]) -> tuple[int, float | None]:
    """Return what the channels with a pattern have lost, and the age of their oldest unread event."""
    rows = [row for row in numbers.by_channel if (row.system, row.kind, row.overflow) == (*pattern, overflow)]
    ages = [row.unread for row in rows if row.unread is not None]
    return sum(row.lost for row in rows), max(ages, default=None)
