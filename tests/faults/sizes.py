"""Fault 19: queues of large events, and what they cost in memory on either side."""

from __future__ import annotations

import queue
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import zbus
from tests.live.workers import tell, told, until_told

from .harness import Row, Stage

_KIB, _MIB = 1 << 10, 1 << 20
_SIZES: dict[str, tuple[int, ...]] = {
    "100 B": (100,),
    "10 KiB": (10 * _KIB,),
    "1 MiB": (_MIB,),
    "mixed sizes": (100, 10 * _KIB, _MIB),
}
_WAYS = ("stopped", "slow", "never reads")
_TAIL = "tail"
_QUICK = {
    ("1 MiB", "stopped", "drop"),
    ("mixed sizes", "never reads", "drop"),
    ("mixed sizes", "never reads", "block"),
}


def heavy_reader(overflow: str, way: str, limit: str) -> None:
    """Subscribe; read slowly or not at all until told to, then all; tell what was received and lost."""
    bus = zbus.Bus(capacity_bytes=int(limit))
    sub = bus.subscribe("heavy", overflow=overflow)  # type: ignore[arg-type]
    channel = sub.channel()
    received = disorder = last = 0
    tell(ready=True)
    read_all = until_told()
    if way != "slow":
        read_all.wait()
    while True:
        evt, _ = channel.receive(timeout=60)
        assert evt is not None
        received += 1
        disorder += evt.seq <= last
        last = evt.seq
        if evt.path == f"/{_TAIL}":
            break
        if not read_all.is_set():
            time.sleep(0.02)
    tell(received=received, lost=sub.lost, superseded=channel.superseded, disorder=disorder, last=last)


def heavy_load(sizes: str, offered: str, limit: str) -> None:
    """Send events of these sizes, so many bytes, or until there is no room; then small ones, until told."""
    bus = zbus.Bus(capacity_bytes=int(limit), linger=0)
    each = [int(size) for size in sizes.split()]
    rng = random.Random(1)
    bus.send("heavy", "data", "/first", b"x" * max(each))
    tell(ready=True)
    told()
    sent = timeouts = 0
    left = int(offered)
    while left > 0 and sent < 250_000 and timeouts < 3:
        size = rng.choice(each)
        try:
            bus.send("heavy", "data", f"/{sent % 500}", b"x" * size, timeout=0.2)
        except zbus.Timeout:
            timeouts += 1
            continue
        sent += 1
        left -= size
        if left // _MIB != (left + size) // _MIB:
            time.sleep(0.002)  # some 300 MiB a second, on a machine that others use too
    tell(sent=sent)
    told()
    ended = until_told()
    while not ended.is_set():
        try:
            bus.send("heavy", "data", f"/{_TAIL}", timeout=0.2)
        except zbus.Timeout:
            continue
        time.sleep(0.05)


def sizes(stage: Stage) -> Iterator[Row]:
    """Every size, every way to read, every policy; in a quick run a few of them."""
    limit = 64 * _MIB
    for name, each in _SIZES.items():
        for way in _WAYS:
            for overflow in ("drop", "block", "latest"):
                if stage.quick and (name, way, overflow) not in _QUICK:
                    continue
                yield _measured(stage, name, each, way, overflow, limit)


def _measured(stage: Stage, name: str, each: tuple[int, ...], way: str, overflow: str, limit: int) -> Row:
    row = stage.row(f"events of {name}, a `{overflow}` reader that is {way}".replace("is never", "never"))
    reader = stage.spawn("heavy_reader", overflow, way, limit).ready()
    load = stage.spawn("heavy_load", " ".join(map(str, each)), 6 * limit, limit).ready()
    if way == "stopped":
        reader.signal(signal.SIGSTOP)
    base = [anonymous_mib(worker.pid) for worker in (load, reader)]
    most = [0.0, 0.0]
    load.tell("go")
    report: dict[str, Any] = {}
    while not report:
        for at, worker in enumerate((load, reader)):
            most[at] = max(most[at], anonymous_mib(worker.pid) - base[at])
        with suppress(queue.Empty):
            report = load.hear(limit=0.01)
    reader.signal(signal.SIGCONT)
    reader.tell("read")
    load.tell("tail")
    found = reader.hear()
    for who, mib in zip(("publisher", "subscriber"), most, strict=True):
        row.at_most(f"{who}'s memory", mib, 2 * limit / _MIB, "MiB", speed=False)
    row.done = f"{report['sent']:,} events offered"
    row.lost = f"{found['lost']:,} of {found['last']:,}, each counted"
    missing = found["last"] - found["received"] - found["lost"] - found["superseded"]
    row.equal("out of order, not accounted for", (found["disorder"], max(0, missing)), (0, 0))
    row.claim(f"lost {found['lost']}", overflow != "block" or found["lost"] == 0)
    row.end(reader, load)
    return row


def anonymous_mib(pid: int) -> float:
    """Return the memory of its own that a process has."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
