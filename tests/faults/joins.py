"""Processes that join and leave, with enough of everything or without."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zbus
from tests.live.workers import tell, told

from .harness import files, resident_mib

__all__ = ["attempt", "churn", "cramped", "greedy", "joiner", "late", "mount", "together"]


def attempt(join: Callable[[], Any], *, leave: bool = True) -> dict[str, Any]:
    """Join; return how long that took and the error it failed with, if any. Leave."""
    start = time.monotonic()
    try:
        joined = join()
        took, error = time.monotonic() - start, ""
        if leave:
            joined.close()
    except zbus.Error as caught:
        took, error = time.monotonic() - start, f"{caught.kind}: {caught}"
    except Exception as caught:  # not an error that zbus promises
        took, error = time.monotonic() - start, f"unnamed {type(caught).__name__}: {caught}"
    return {"took": took, "error": error, "at": start + took}


def fresh() -> zbus.Bus:
    """Open a bus as a new process does, and subscribe on it."""
    bus = zbus.Bus()
    try:
        bus.subscribe("joined")
    except BaseException:
        bus.close()
        raise
    return bus


def joiner(again: str = "0") -> None:
    """For each line told: join as a new process does, and leave.

    With `again` it also subscribes on a bus that has been open from the start, in both ways.
    """
    kept = zbus.Bus() if again == "1" else None
    if kept is not None:
        kept.subscribe("first")
    tell(ready=True)
    while told():
        tell(**attempt(fresh))
        if kept is not None:
            tell(**attempt(lambda: kept.subscribe("second")))
            tell(**attempt(lambda: kept.subscribe("second", overflow="block")))


def churn(seed: str) -> None:
    """Join and leave in every way, as often as told; in the end look at who is there."""
    rng = random.Random(seed)
    ways = ("bus", "drop", "block")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    with zbus.Bus() as bus:

        def once(way: str) -> None:
            if way == "bus":
                with zbus.Bus() as other, other.subscribe("churn") as sub:
                    hear_oneself(other, sub)
            else:
                with bus.subscribe("churn", overflow=way) as sub:
                    hear_oneself(bus, sub)

        once("drop")
        tell(ready=True)
        while line := told():
            for _ in range(int(line)):
                once(rng.choice(ways))
            bus.send("nobody", "k", "/1")
            gc.collect()
            mib = resident_mib(os.getpid())
            if trim is not None:
                trim(0)  # what malloc keeps in reserve is no leak
            tell(mib=mib)


def hear_oneself(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    """Send an event of this process's own and wait until it arrives."""
    mine = f"/{os.getpid()}"
    bus.send("churn", "k", mine)
    for evt in sub:
        if evt.path == mine:
            break


def greedy(count: str, size: str, seconds: str) -> None:
    """Subscribe to one topic after the other until refused; when told, close one and try again."""
    with zbus.Bus() as bus:
        tell(ready=True)
        held: list[zbus.Subscription] = []
        start, error, named, details = time.monotonic(), "", False, {}
        try:
            while len(held) < int(count) and time.monotonic() < start + float(seconds):
                held.append(bus.subscribe(f"t{len(held)}.".ljust(int(size), "x")))
        except zbus.Error as caught:
            error, named, details = f"{caught.kind}: {caught}", True, caught.details
        except Exception as caught:  # not an error that zbus promises
            error = f"{type(caught).__name__}: {caught}"
        took = time.monotonic() - start
        tell(held=len(held), error=error, named=named, details=details, took=took)
        told()
        held.pop().close()
        tell(**attempt(lambda: bus.subscribe("again")))
        told()


def cramped(descriptors: str) -> None:
    """Have few descriptors. Told `more`, subscribe; `fill`, until refused; `close`, one; `send`, send."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
    with zbus.Bus() as bus:
        held: list[zbus.Subscription] = []

        def more() -> None:
            held.append(bus.subscribe("cramped", overflow="block"))

        def fill() -> None:
            while len(held) < int(descriptors):
                more()

        uses = {
            "more": more,
            "fill": fill,
            "close": lambda: held.pop().close(),
            "send": lambda: bus.send("cramped", "k", "/1", timeout=2),
        }
        tell(ready=True)
        while line := told():
            report = attempt(uses[line], leave=False)
            tell(held=len(held), **report)


def together(count: str) -> None:
    """Subscribe; told to, send the first event; told to, receive those of `count` programs."""
    with zbus.Bus() as bus:
        sub = bus.subscribe("crowd.**")
        tell(ready=True)
        if told():
            tell(**attempt(lambda: bus.send("crowd.of.programs", "hello", f"/{os.getpid()}"), leave=False))
        if told():
            senders: set[str] = set()
            account(sub, senders, int(count))
            mine = next(peer for peer in zbus.peers() if peer.role == "member" and peer.pid == os.getpid())
            tell(got=len(senders), lost=sub.lost, given_up=mine.counters["join_timeouts"])
        told()


def account(sub: zbus.Subscription, paths: set[str], count: int) -> None:
    """Receive until `count` events have come or are told to be lost, or none comes for a long time."""
    with suppress(TimeoutError):
        while len(paths) + sub.lost < count:
            evt, _ = sub.channel().receive(timeout=20)
            assert evt is not None
            paths.add(evt.path)


def late(overflow: str = "drop") -> None:
    """Join when told to. Told `account`, tell what came and what is neither received nor told to be lost.

    All events are of one topic, numbered by their data. `account` may say how many there are to be.
    """
    with zbus.Bus() as bus:
        tell(ready=True)
        told()
        sub = bus.subscribe("neighbours", overflow=overflow)
        tell(joined=True)
        _, *count = told().split()
        numbers: set[int] = set()
        with suppress(TimeoutError):
            while not count or len(numbers) + sub.lost < int(count[0]):
                evt, _ = sub.channel().receive(timeout=5)
                assert evt is not None
                numbers.add(evt.data)
        gaps = [number for gap in sub.channel().gaps for number in range(gap.first, gap.last + 1)]
        known = numbers | {*gaps}
        silent = sorted({*range(min(known, default=1), max(known, default=0))} - known)
        tell(
            got=len(numbers),
            lost=sub.lost,
            silent=silent,
            first=min(known, default=0),
            last=max(known, default=0),
        )


def mount() -> None:
    """Hold a small file system at $ZBUS_DIR, for the processes that enter this one's mount namespace.

    Told `fill` or `free`, `read-only` or `writable`, and `list`, it does that.
    """
    root = os.environ["ZBUS_DIR"]
    filler, lower = f"{root}/filler", ["mount", "--bind", root, root]
    commands = {
        # A file that is open for writing keeps a file system from becoming read-only, and every member has
        # one. So another mount of the same comes on top.
        "read-only": [lower, ["mount", "-o", "remount,bind,ro", root]],
        "writable": [["umount", root]],
    }
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", root], check=True)
    tell(ready=True)
    while line := told():
        if line == "fill":
            fill(filler)
        elif line == "free":
            os.remove(filler)
        for command in commands.get(line, ()):
            subprocess.run(command, check=True)
        left = files(Path(root, "v1", "default")) if line == "list" else []
        tell(done=line, at=time.monotonic(), files=left)


def fill(path: str) -> None:
    """Write a file until the disk is full."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
