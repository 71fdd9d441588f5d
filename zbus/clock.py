"""The clock by which peers compare notes."""

from __future__ import annotations

import time

__all__ = ["clock"]


def clock() -> int:
    """Return the time by which peers compare notes: CLOCK_MONOTONIC in microseconds."""
    return time.monotonic_ns() // 1000
