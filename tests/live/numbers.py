"""The live numbers of a process, as any other process reads them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zbus
from zbus.runtime import housekeeping

from .process import LIMIT, receive

__all__ = ["looks", "lose_some", "member_file", "numbers", "publications"]


def numbers(holds: Callable[[zbus.Numbers], object], pid: int = 0) -> zbus.Numbers:
    """Return the numbers of the only member of a process, once they are as they should be."""
    found, deadline = None, time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        of_process = [
            peer for peer in zbus.peers() if peer.role == "member" and peer.pid == (pid or os.getpid())
        ]
        if len(of_process) == 1 and (found := of_process[0].numbers) is not None and holds(found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"the numbers are {found}")


def member_file(pid: int = 0) -> Path:
    """Return the member file of the only member of a process."""
    found = zbus.peers()
    [peer] = [peer for peer in found if peer.role == "member" and peer.pid == (pid or os.getpid())]
    return found.path / f"{peer.id}.member"


def publications(file: Path) -> int:
    """Return how often a process has published."""
    return int.from_bytes(file.read_bytes()[40:48], "little")


@contextmanager
def looks() -> Iterator[Callable[[int], None]]:
    """Yield a call that waits until each bus of this process has looked so often at what it may publish."""
    ticks = threading.Semaphore(0)
    housekeeping.register(ticks.release)

    def wait(count: int) -> None:
        while ticks.acquire(blocking=False):
            pass
        for _ in range(count + 1):  # the first may be due to a look that had begun already
            assert ticks.acquire(timeout=LIMIT)

    try:
        yield wait
    finally:
        housekeeping.unregister(ticks.release)


def lose_some(bus: zbus.Bus, sub: zbus.Subscription, system: str, kind: str) -> None:
    """Lose events of a subscription with a capacity of 5, and wait until everybody can see how many."""
    for number in range(1000):
        bus.send(system, kind, "/", number)
    while sub.lost == 0:
        bus.send(system, kind, "/", 1000)
        receive(sub)
    while sub.lost not in [peer.counters.get("lost") for peer in zbus.peers()]:
        pass
