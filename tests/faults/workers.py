"""What the processes of the faults do: `python -m tests.faults.workers NAME ARGUMENTS...`.

As in `tests/live/workers.py`: JSON lines out, the first says that it is ready; lines in; none outlives its
standard input.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zbus
from tests.live.workers import Progress, tell, told

from .harness import files, percentile

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


def churn(rounds: str, seed: str) -> None:
    """Join and leave in every way, when told `run`; when told `settle`, just look at who is there."""
    rng = random.Random(seed)
    ways = ("bus", "drop", "block")
    with zbus.Bus() as bus:

        def once(way: str) -> None:
            if way == "bus":
                with zbus.Bus() as other, other.subscribe("churn") as sub:
                    hear_oneself(other, sub)
            else:
                with bus.subscribe("churn", overflow=way) as sub:
                    hear_oneself(bus, sub)

        for way in ways * 2:  # what is made once for all is there from here on
            once(way)
        tell(ready=True)
        while line := told():
            if line == "run":
                for _ in range(int(rounds)):
                    once(rng.choice(ways))
            bus.send("nobody", "k", "/1")
            gc.collect()
            tell(done=line)


def hear_oneself(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    """Send an event of this process's own and wait until it arrives."""
    mine = f"/{os.getpid()}"
    bus.send("churn", "k", mine)
    for evt in sub:
        if evt.path == mine:
            break


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


def forker(forks: str) -> None:
    """Fork while a thread sends; each child tries what it inherited, then buses of its own."""
    stop = threading.Event()
    sent = 0

    def stream() -> None:
        nonlocal sent
        while not stop.wait(0 if sent % 100 else 0.005):
            sent += 1
            zbus.send(SYSTEM, KIND, "/n", [sent, ""])

    bus = zbus.Bus()
    sub = bus.subscribe("mine")
    bus.send("mine", "k", "/1")
    tell(ready=True)
    told()
    thread = threading.Thread(target=stream)
    thread.start()
    children = [forked(bus, sub) for _ in range(int(forks))]
    stop.set()
    thread.join()
    sent += 1
    zbus.send(SYSTEM, KIND, "/end", [sent, ""])
    evt, _ = sub.channel().receive(timeout=5)  # sent before the forks, not taken by a child
    bus.send("mine", "k", "/2")
    paths = [evt and evt.path, next(iter(sub)).path]
    tell(sent=sent, children=children, paths=paths)
    told()


def forked(bus: zbus.Bus, sub: zbus.Subscription) -> dict[str, Any]:
    """Fork; return what the child reports, or that it hung."""
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that is what this is about
        child = os.fork()
    if not child:
        warnings.simplefilter("ignore")  # of the parent's sockets, which are not the child's to close
        os.write(into, json.dumps(in_a_child(bus, sub)).encode())
        sys.exit(0)
    os.close(into)
    hung = not select.select([out], [], [], 10)[0]
    if hung:
        os.kill(child, signal.SIGKILL)
    text = b"" if hung else os.read(out, 1 << 16)
    os.close(out)
    _, status = os.waitpid(child, 0)
    return {"hung": hung, "status": status, **json.loads(text or b"{}")}


def in_a_child(bus: zbus.Bus, sub: zbus.Subscription) -> dict[str, Any]:
    kinds = []
    for use in (
        lambda: bus.send("mine", "k", "/child"),
        lambda: bus.subscribe("mine"),
        lambda: sub.channel().receive(timeout=5),
    ):
        try:
            use()
            kinds.append("")
        except Exception as error:
            kinds.append(type(error).__name__)
    bus.close()
    start = time.monotonic()
    with zbus.Bus() as own:
        ours = own.subscribe("child")
        zbus.send("child", "k", "/1")  # by the default bus, which a thread of the parent is using
        path = next(iter(ours)).path
    return {"kinds": kinds, "took": time.monotonic() - start, "path": path}


def cramped(descriptors: str) -> None:
    """Have few descriptors. Told `more`, subscribe; `fill`, until refused; `close`, one; `send`, send."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
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
    with zbus.Bus() as bus:
        tell(ready=True)
        while line := told():
            report = attempt(uses[line], leave=False)
            tell(held=len(held), **report)


def clocked() -> None:
    """Report how long time-outs take, by the monotonic clock, while somebody sets the clock."""

    def timed(what: str, wait: Callable[[], object]) -> None:
        wall = time.time()
        start, error = time.monotonic(), ""
        tell(begins=what)
        try:
            wait()
        except zbus.Error as caught:
            error = caught.kind
        took = time.monotonic() - start
        tell(took=took, jumped=time.time() - wall - took, error=error)

    bus = zbus.Bus(join_timeout=1, linger=1)
    sub = bus.subscribe("nothing")
    tell(ready=True)
    told()
    bus.send("stuck", "k", "/linked")
    tell(linked=True)
    told()  # that it is stopped
    with suppress(zbus.Timeout):
        while True:
            bus.send("stuck", "k", "/fill", timeout=0.05)
    timed("receive", lambda: sub.channel().receive(timeout=1))
    timed("send", lambda: bus.send("stuck", "k", "/1", timeout=1))
    told()  # that somebody who does not answer has joined
    timed("join", lambda: bus.send("other", "k", "/1", timeout=30))
    timed("close", bus.close)
    told()


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


def main() -> None:
    logging.getLogger("zbus").addHandler(logging.NullHandler())  # losses are meant here
    globals()[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
