"""Faults 3 and 4: queues that fill."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from tests.live.process import Worker

from .harness import Row, Stage, descriptors, moments, resident_mib
from .kills import complete, finish, start


def subscriber_stopped(stage: Stage) -> Iterator[Row]:
    row = stage.row("SIGSTOP a `drop` subscriber under load, then SIGCONT")
    rate, seconds = 4000, stage.size(30, 2)
    stopped = stage.spawn("listen", "stream", "drop", 1000).ready()
    beside = stage.spawn("listen").ready()
    # So small a capacity, and events large enough, that the queues on the way fill in a quick run, too.
    load = stage.spawn("load", rate, "stream", 500, stage.size(10_000, 2_000)).ready()
    start(load, "before")
    wait(seconds / 2)
    stopped.signal(signal.SIGSTOP)
    start(load, "stopped")
    memory = resident_mib(load.pid)
    wait(seconds)
    row.show(f"publisher's memory {resident_mib(load.pid) - memory:+.1f} MiB")
    start(load, "after")
    stopped.signal(signal.SIGCONT)
    wait(seconds / 2)
    report, [found, bystander] = finish(load, [stopped, beside])
    _judge_speed(row, report["p99_us"])
    row.done = f"{seconds} s at {rate:,} events/s, capacity 1,000"
    bystander_lost = complete(row, bystander)
    row.lost = f"{found['lost']:,} of {found['last']:,}, each counted; beside it {bystander_lost}"
    _accounted(row, found)
    yield row


def _judge_speed(row: Row, p99: dict[str, float]) -> None:
    """Compare slow sends while it is stopped with those before and after, in the same run."""
    baseline = (p99["before"] + p99["after"]) / 2
    row.at_most("p99 of a send, times its baseline", p99["stopped"] / baseline, 2, "x")
    row.show(f"p99 {p99['stopped']:.0f} µs, baseline {baseline:.0f} µs")


def slow_reader(stage: Stage) -> Iterator[Row]:
    """Both policies at once: ten times more is sent than is read."""
    seconds, read = stage.size(60, 3), stage.size(500, 1000)
    pairs = []
    for overflow in ("drop", "block"):
        reader = stage.spawn("listen", overflow, overflow, 500, read)
        pairs.append((reader.ready(), stage.spawn("load", 5000, overflow, 500, 500).ready(), overflow))
    for _, load, _ in pairs:
        start(load, "go")
    before = [_connections(load) for _, load, _ in pairs]
    wait(seconds)
    after = [_connections(load) for _, load, _ in pairs]
    for at, (reader, load, overflow) in enumerate(pairs):
        row = stage.row(f"a reader slower than the stream, `{overflow}`, queues full")
        report, [found] = finish(load, [reader])
        row.done = f"{seconds} s, 5,000 events/s offered, {read} read"
        row.lost = f"{found['lost']:,} of {found['last']:,}, each counted"
        _accounted(row, found, lossless=overflow == "block")
        row.equal("connections of the publisher", after[at], before[at])
        row.claim("the reader read no more than was sent", found["last"] <= report["sent"])
        row.end(reader, load)
        yield row


def _connections(load: Worker) -> list[str]:
    """Return the sockets of a process by inode, which a new connection would change."""
    return [name for name in descriptors(load.pid) if name.startswith("socket:")]


def true_gaps(report: dict[str, Any]) -> list[list[int]]:
    """Return the holes between the numbers that a listener got."""
    ends = [0, *(run[1] for run in report["runs"])]
    return [[end + 1, run[0] - 1] for end, run in zip(ends, report["runs"], strict=False) if run[0] > end + 1]


def _accounted(row: Row, report: dict[str, Any], *, lossless: bool = False) -> None:
    """Claim that what a listener calls lost is what it did not get, number by number."""
    row.equal("gaps told against numbers missing", report["gaps"], true_gaps(report)[-1000:])
    row.equal("received + lost", report["received"] + report["lost"], report["last"])
    row.equal("out of order, malformed", (report["disorder"], report["malformed"]), (0, 0))
    row.claim(f"lost {report['lost']}", (report["lost"] == 0) == lossless)


def wait(seconds: float) -> None:
    """Let a load last."""
    for _ in moments(seconds):
        pass
