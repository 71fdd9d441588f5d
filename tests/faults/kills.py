"""Faults 1 and 2: processes killed in mid-stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import zbus
from tests.live.process import Worker
from tests.live.workers import Progress

from .harness import Row, Stage, descriptors, files, moments, percentile, resident_mib, until
from .streams import unseal

_FIRST_LIMIT = 30.0


class Incarnations:
    """What arrived of each restart of a publisher; its path is its number."""

    def __init__(self, sub: zbus.Subscription) -> None:
        self._channel = sub.channel()
        self.seen: list[int] = []
        self.torn = self.wrong = 0

    def read(self, index: int, count: int) -> None:
        """Read on until `count` events of incarnation `index` have arrived."""
        self.seen.extend([0] * (index + 1 - len(self.seen)))
        while self.seen[index] < count:
            evt, _ = self._channel.receive(timeout=_FIRST_LIMIT)
            assert evt is not None
            self._check(evt)

    def _check(self, evt: zbus.Event) -> None:
        index, number = int(evt.path[1:]), unseal(evt.data)
        self.torn += number < 0
        # The next number and no other: neither a hole, nor one that came twice.
        self.wrong += number != self.seen[index] + 1 or evt.seq != number
        self.seen[index] = number


def publisher_killed(stage: Stage) -> Iterator[Row]:
    row = stage.row("SIGKILL a publisher while it sends, restart it")
    kills = stage.size(50, 5)
    sub = stage.bus().subscribe("stream")
    found = Incarnations(sub)
    again: list[float] = []
    killed = 0.0
    for index in range(kills + 1):
        progress = stage.scratch / str(index)
        worker = stage.spawn("torrent", progress, f"/{index}", stage.random.random())
        found.read(index, 1)
        again.append(time.monotonic() - killed)
        found.read(index, stage.random.randrange(20, 400))
        worker.process.kill()
        killed = time.monotonic()
        worker.end()
    stage.join()
    found.read(index, found.seen[-1])
    tails = [Progress(str(stage.scratch / str(at))).get() - seen for at, seen in enumerate(found.seen[:-1])]
    row.done = f"{kills} kills at random moments, events of up to 20 kB"
    row.lost = f"0 of {sum(found.seen):,} that left the publisher; with it went {max(tails)} events at most"
    row.at_most("first event after the kill, p99", 1000 * percentile(again[1:], 99), 500, "ms")
    row.show(f"p50 {1000 * percentile(again[1:], 50):.0f} ms, start of Python included")
    row.equal("torn events", found.torn, 0)
    row.equal("events twice, late or missing between others", found.wrong, 0)
    row.equal("lost, malformed", (sub.lost, sub.channel().malformed), (0, 0))
    row.equal("members on the roster", sum(peer.role == "member" for peer in stage.peers()), 1)
    row.equal("files of the dead", len(files(stage.path)), 3)
    yield row


def _held(worker: Worker) -> int:
    """Return how many descriptors a process holds; what it has open for a moment, looking about, is none."""
    return min(len(descriptors(worker.pid)) for _ in range(50))


def subscriber_killed(stage: Stage) -> Iterator[Row]:
    row = stage.row("SIGKILL 1 of 10 subscribers under load")
    rate, seconds = 2000, stage.size(20, 2)
    others = stage.spawn_all(9, "listen")
    load = stage.spawn("load", rate, "stream", 200).ready()
    start(load, "nine")
    base = _held(load)
    victim = stage.spawn("listen").ready()
    start(load, "ten")
    row.equal("descriptors for the tenth", _held(load) - base, 1)
    memory = resident_mib(load.pid)
    victim.kill()
    row.at_most("descriptors back after", _back(load, base), 5, "s")
    grown = max(resident_mib(load.pid) - memory for _ in moments(seconds))
    row.at_most("publisher's memory", grown, 5, "MiB more", speed=False)
    row.equal("descriptors at the end", _held(load), base)
    report, reports = finish(load, others)
    row.done = f"{rate:,} events/s to 10 processes, one killed, {seconds} s more"
    row.lost = "; ".join(sorted({complete(row, each) for each in reports})) + " each"
    row.claim("all got to the end", all(each["last"] <= report["sent"] for each in reports))
    yield row


def _back(load: Worker, base: int) -> float:
    return until(lambda: _held(load) <= base, 30, "the publisher lets go of its connection")


def start(load: Worker, phase: str) -> int:
    """Begin a phase of a load; return how many it had sent by its first event in it."""
    load.tell(phase)
    report = load.hear()
    assert report["phase"] == phase
    return int(report["sent"])


def finish(load: Worker, listeners: list[Worker]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """End a load; return its report, and those of listeners up to the first of its last events they read."""
    load.tell("stop")
    reports = [listener.hear() for listener in listeners]
    load.tell("enough")
    return load.hear(), reports


def complete(row: Row, report: dict[str, Any]) -> str:
    """Claim that a listener got everything, in order; return how much it did not get, of how much."""
    row.equal("a bystander's lost, out of order", (report["lost"], report["disorder"]), (0, 0))
    row.equal("a bystander's numbers", report["runs"], [[1, report["last"]]])
    return f"{report['last'] - report['received']:,} of {report['last']:,}"
