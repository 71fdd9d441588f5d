"""Events from a process to itself, on a bus that nobody else is on: do they arrive, and how soon?"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import zbus

from ..roster.location import locate

__all__ = ["loopback", "own_bus"]

_EVENTS = 200
_WARM_UP = 20
_SECONDS = 10.0


@contextmanager
def own_bus(root: Path, purpose: str) -> Iterator[str]:
    """Yield the name of a bus that nobody else is on, and remove its directory below `root` at the end."""
    name = f"{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        shutil.rmtree(locate(root, name), ignore_errors=True)


def loopback(root: Path) -> tuple[float, float]:
    """Send some events through a bus of its own below `root`, and remove that bus.

    Returns:
        The median and the longest time from `send` to `receive`, in seconds.

    Raises:
        zbus.Error: the bus could not be opened, or an event did not arrive within 10 seconds.
    """
    with own_bus(root, "doctor") as name, zbus.Bus(name, dir=root) as bus, bus.subscribe("loopback") as sub:
        channel = sub.channel()
        taken = []
        for number in range(_WARM_UP + _EVENTS):
            begun = time.perf_counter()
            bus.send("loopback", "ping", "/", number, timeout=_SECONDS)
            channel.receive(_SECONDS)
            taken.append(time.perf_counter() - begun)
    return median(taken[_WARM_UP:]), max(taken[_WARM_UP:])
