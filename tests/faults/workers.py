"""What the processes of the faults do: `python -m tests.faults.workers NAME ARGUMENTS...`.

As in `tests/live/workers.py`: JSON lines out, the first says that it is ready; lines in; none outlives its
standard input.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import random
import struct
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import zbus
from tests.live.workers import Progress, resident_mib, tell, told

from .harness import percentile

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
        # What send takes of itself, and not the waiting for its turn on a busy machine, is in p50.
        figures = {name: [1e6 * percentile(took, p) for p in (50, 99)] for name, took in spent.items()}
        while not lines.next(0.01):
            number += 1
            bus.send(system, KIND, "/end", [number, ""])
        tell(sent=number, send_us=figures)


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
    also: Callable[[zbus.Event], object] = lambda evt: None,
) -> dict[str, Any]:
    """Tally the numbered events of `system` until its end; give `also` every other."""
    tally = Tally()
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


def attempt(join: Callable[[], object]) -> dict[str, Any]:
    """Try something; return how long it took and the error it failed with, if any."""
    start = time.monotonic()
    error = ""
    try:
        join()
    except zbus.Error as caught:
        error = f"{caught.kind}: {caught}"
    except Exception as caught:  # not an error that zbus promises
        error = f"unnamed {type(caught).__name__}: {caught}"
    return {"took": time.monotonic() - start, "error": error, "at": time.monotonic()}


def joiner(again: str = "0") -> None:
    """For each line told: join as a new process does, hear an event of one's own, leave.

    With `again` it also subscribes on a bus that has been open from the start, in both ways.
    """

    def join() -> None:
        with zbus.Bus() as bus:
            sub = bus.subscribe("joined")
            bus.send("joined", "k", "/1")
            sub.channel().receive(timeout=5)

    kept = zbus.Bus() if again == "1" else None
    if kept is not None:
        kept.subscribe("first")
    tell(ready=True)
    while told():
        tell(**attempt(join))
        if kept is not None:
            tell(**attempt(lambda: kept.subscribe("second").close()))
            tell(**attempt(lambda: kept.subscribe("second", overflow="block").close()))


def churn(rounds: str, seed: str) -> None:
    """Join and leave in every way; report what this process holds before and after."""
    rng = random.Random(seed)
    with zbus.Bus() as bus:

        def once(way: str) -> None:
            if way == "bus":
                with zbus.Bus() as other:
                    sub = other.subscribe("churn")
                    other.send("churn", "k", "/1")
                    sub.channel().receive(timeout=10)
            else:
                with bus.subscribe("churn", overflow=way) as sub:
                    bus.send("churn", "k", "/1")
                    sub.channel().receive(timeout=10)

        ways = ("bus", "drop", "block")
        for way in ways * 2:  # what is made once for all is there from here on
            once(way)
        tell(ready=True)
        told()
        before = holdings()
        for _ in range(int(rounds)):
            once(rng.choice(ways))
        tell(before=before, after=holdings(), joins=int(rounds))
        told()


def holdings() -> dict[str, float]:
    """Return what this process has: threads, descriptors, memory."""
    gc.collect()
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mib": resident_mib(),
    }


def fill(paths: Iterable[str]) -> None:
    """Write into files until the disk is full."""
    for path in paths:
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                continue


def main() -> None:
    logging.getLogger("zbus").addHandler(logging.NullHandler())  # losses are meant here
    globals()[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
