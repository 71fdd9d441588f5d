"""Processes that send and receive numbered events, and tell what arrived."""

from __future__ import annotations

import os
import queue
import random
import struct
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Callable
from typing import Any

import zbus
from tests.live.workers import Progress, tell, told

from .harness import percentile
from .joins import attempt

__all__ = ["hold", "listen", "load", "resident", "torrent", "unseal", "victim"]

SYSTEM, KIND = "stream", "tick"
HEADER = struct.Struct("<QI")


def seal(number: int, body: bytes) -> bytes:
    """Return data that shows whether it is whole."""
    return HEADER.pack(number, zlib.crc32(body)) + body


def unseal(data: bytes) -> int:
    """Return the number of sealed data, or -1 if it is torn."""
    number, checksum = HEADER.unpack_from(data)
    return int(number) if zlib.crc32(data[HEADER.size :]) == checksum else -1


class Lines:
    """The lines that this process is told, without waiting for them."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while line := sys.stdin.readline():
            self._lines.put(line.strip())
        os._exit(0)  # the test is gone

    def next(self, timeout: float | None = None, default: str = "") -> str:
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            return default


class Pace:
    """How many events are due, at a rate; after a wait at most those of a tenth of a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._last = time.monotonic()

    def due(self) -> int:
        now = time.monotonic()
        count = int(min(now - self._last, 0.1) * self._rate)
        if count:
            self._last = now
        return count


def torrent(progress_path: str, path: str, seed: str) -> None:
    """Send sealed events of all sizes until killed; their number is in a file just before each send."""
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.randrange(20_000)) for _ in range(50)]
    progress = Progress(progress_path, create=True)
    pace, pause, number = Pace(2000), threading.Event(), 0
    with zbus.Bus() as bus:
        while True:
            for _ in range(max(1, pace.due())):
                number += 1
                progress.set(number)
                bus.send(SYSTEM, KIND, path, seal(number, bodies[number % 50]))
            pause.wait(0.01)


def load(rate: str, system: str = SYSTEM, size: str = "0", capacity: str = "65536") -> None:
    """Send numbered events at a rate; each line told begins a phase, `stop` the end.

    Reports each phase once an event of it is sent. After `stop` it goes on, 100 a second with the path
    `/end`, until told once more: whoever has read one of these knows of every event before.
    """
    lines, pace, number = Lines(), Pace(float(rate)), 0
    spent: dict[str, array[float]] = {}
    with zbus.Bus(capacity=int(capacity), send_timeout=30) as bus:
        tell(ready=True)
        phase = lines.next()
        while phase != "stop":
            took = spent.setdefault(phase, array("d"))
            fresh = not took
            for _ in range(max(1, pace.due())):
                number += 1
                start = time.perf_counter()
                bus.send(system, KIND, "/n", [number, "x" * int(size)])
                took.append(time.perf_counter() - start)
            if fresh:
                tell(phase=phase, sent=number)
            phase = lines.next(0.005, phase)
        figures = {name: 1e6 * percentile(took, 99) for name, took in spent.items()}
        while not lines.next(0.01):
            number += 1
            bus.send(system, KIND, "/end", [number, ""])
        tell(sent=number, p99_us=figures, slowest_ms=1e3 * max(map(max, spent.values())))


class Tally:
    """Which numbers a channel got, as runs without a hole, and whether one came twice or too late."""

    def __init__(self) -> None:
        self.received = self.disorder = self.last = 0
        self.runs: list[list[int]] = []

    def add(self, number: int) -> None:
        self.received += 1
        self.disorder += number <= self.last
        if self.runs and self.runs[-1][1] == number - 1:
            self.runs[-1][1] = number
        else:
            self.runs.append([number, number])
        self.last = number

    def report(self, sub: zbus.Subscription, system: str) -> dict[str, Any]:
        gaps = [[gap.first, gap.last] for gap in sub.channel().gaps if gap.system == system]
        return {**vars(self), "lost": sub.lost, "gaps": gaps, "malformed": sub.channel().malformed}


def hold(pattern: str, overflow: str) -> None:
    """Subscribe and never read."""
    with zbus.Bus() as bus:
        _held = bus.subscribe(pattern, overflow=overflow, capacity=10)
        tell(ready=True)
        told()


def listen(
    system: str = SYSTEM,
    overflow: str = "drop",
    capacity: str = "65536",
    rate: str = "0",
    pattern: str = "",
) -> None:
    """Read numbered events of `system`, at most `rate` a second if given, until the path `/end`; report."""
    with zbus.Bus(capacity=int(capacity)) as bus:
        sub = bus.subscribe(pattern or system, overflow=overflow)
        tell(ready=True)
        tell(**count(sub, system, float(rate)))
        told()


def count(
    sub: zbus.Subscription,
    system: str,
    rate: float = 0,
    also: Callable[[zbus.Event], object] = lambda _: None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Tally the numbered events of `system` until its end; give `also` every other."""
    tally = tally or Tally()
    start = time.monotonic()
    for evt in sub:
        if evt.system != system:
            also(evt)
            continue
        tally.add(evt.data[0])
        if evt.path == "/end":
            break
        # A slow reader, as one that does some work for each event.
        if rate and (ahead := start + tally.received / rate - time.monotonic()) > 0:
            time.sleep(ahead)
    return tally.report(sub, system)


def resident() -> None:
    """Read `stream` in a thread. Told `join`, make another subscription; `count`, tell what has arrived."""
    with zbus.Bus() as bus:
        sub, tally = bus.subscribe(SYSTEM), Tally()
        thread = threading.Thread(target=count, args=(sub, SYSTEM), kwargs={"tally": tally}, daemon=True)
        thread.start()
        tell(ready=True)
        while line := told():
            if line == "join":
                tell(**attempt(lambda: bus.subscribe("second")))
            else:
                tell(**tally.report(sub, SYSTEM))


def victim(limit: str = "16777216") -> None:
    """Be in every role at once: read everything by both policies, answer `ping`, send events of `victim`.

    Reports what each channel got of `steady`, once that ended; then it goes on until told.
    """
    reports: list[dict[str, Any]] = []

    def read(bus: zbus.Bus, sub: zbus.Subscription) -> None:
        def answer(evt: zbus.Event) -> None:
            if evt.system == "ping":
                bus.send("pong", "k", evt.path)

        reports.append(count(sub, "steady", also=answer))

    with zbus.Bus(max_event_bytes=int(limit)) as bus:
        subs = [bus.subscribe("**", overflow=overflow) for overflow in ("drop", "block")]
        readers = [threading.Thread(target=read, args=(bus, sub), daemon=True) for sub in subs]
        for reader in readers:
            reader.start()
        tell(ready=True)
        lines, number = Lines(), 0
        while not lines.next(0.005):
            number += 1
            bus.send("victim", KIND, "/n", [number, ""])
        tell(sent=number)
        for reader in readers:
            reader.join(30)
        tell(reports=reports)
