"""Timeouts as libzmq takes them. Time itself is an argument here."""

from __future__ import annotations

from math import ceil, inf

__all__ = ["milliseconds"]


def milliseconds(seconds: float) -> int:
    """Return `seconds` for libzmq, rounded up so that it never wakes early; -1, so forever, if infinite.

    At most 2**31 - 1, the largest it takes: 24 days, after which a caller looks at the time again.
    """
    return -1 if seconds == inf else min(ceil(max(0.0, min(seconds, 1e7)) * 1000), 2**31 - 1)
