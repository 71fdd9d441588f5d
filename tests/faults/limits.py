"""Fault 11: fork, few descriptors, and a clock that jumps."""

from __future__ import annotations

import queue
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import zmq

from tests.live.process import Worker

from .foreign import Publisher
from .harness import NOT_SURVIVED, Row, Stage, brief, files, until
from .kills import complete
from .queues import wait

_FEW = 64
_CROWD = 90
_HOUR = 3600


def limited(stage: Stage) -> Iterator[Row]:
    yield _fork(stage)
    yield _too_few_to_subscribe(stage)
    yield _few_to_subscribe(stage)
    yield _few_to_publish(stage)
    yield _few_in_a_crowd(stage, _FEW, _CROWD)
    yield _few_in_a_crowd(stage, 4 * _FEW, 4 * _CROWD)
    yield _clock(stage)


def _fork(stage: Stage) -> Row:
    row = stage.row("fork after first use, while another thread sends")
    forks = stage.size(50, 10)
    listener = stage.spawn("listen").ready()
    worker = stage.spawn("forker", forks).ready()
    worker.tell("go")
    report = worker.hear(20 + 11 * forks)
    children = report["children"]
    row.equal("children that hung", sum(child["hung"] for child in children), 0)
    row.equal("exit statuses", {child["status"] for child in children}, {0})
    uses = {tuple(child.get("kinds", ())) for child in children}
    row.equal("use of the parent's bus", uses, {("Canceled",) * 3})
    row.at_most("a bus of its own works after", max(child.get("took", 99) for child in children), 5, "s")
    row.equal("the parent's own events", report["paths"], ["/1", "/2"])
    found = listener.hear()
    parents = complete(row, found)
    row.equal("sent", report["sent"], found["last"])
    row.end(worker, listener)
    row.done = f"{forks} children: `Canceled` on what they inherit, then buses of their own"
    row.lost = f"{parents} of the parent"
    return row


def _too_few_to_subscribe(stage: Stage) -> Row:
    row = stage.row(f"{_FEW} descriptors, a subscription")
    worker = stage.spawn("cramped", _FEW).ready()
    refused = _ask(worker, "more")
    row.claim(f"not named: {refused['error']!r}", "file descriptors are too few" in refused["error"])
    row.at_most("refused within", refused["took"], 1, "s")
    row.show(f"“{brief(refused['error'])}”")
    row.end(worker)
    row.done, row.lost = "each publisher that connects would take one", "nothing"
    return row


def _few_to_subscribe(stage: Stage) -> Row:
    row = stage.row(f"{2 * _FEW} descriptors, `block` subscriptions until refused")
    worker = stage.spawn("cramped", 2 * _FEW).ready()
    full = _ask(worker, "fill")
    row.claim(f"not named: {full['error']!r}", "file descriptors" in full["error"])
    row.at_most("refused within", full["took"], 1, "s")
    row.show(f"after {full['held']}: “{brief(full['error'])}”")
    _ask(worker, "close")
    # libzmq closes descriptors a moment later; the error says that it is worth to try again.
    took = until(lambda: not _ask(worker, "more")["error"], 30, "another subscription once one is closed")
    row.at_most("recovered within", took, 5, "s")
    row.equal("send to them all", _ask(worker, "send")["error"], "")
    row.end(worker)
    row.done, row.lost = "then one is closed, and another opened", "nothing"
    return row


def _ask(worker: Worker, what: str) -> dict[str, Any]:
    worker.tell(what)
    return worker.hear()


def _few_to_publish(stage: Stage) -> Row:
    row = stage.row(f"a publisher with {_FEW} descriptors and {_CROWD} subscribers")
    crowd = stage.spawn("cramped", 4096).ready()
    sender = stage.spawn("cramped", _FEW).ready()
    held = [_ask(crowd, "more")["held"] for _ in range(_CROWD)]
    row.equal("subscriptions", held[-1], _CROWD)
    _try(row, sender, "a send to more than it can connect")
    crowd.end()
    begin = time.monotonic()
    _try(row, sender, "a send once they are gone", "")
    row.at_most("recovered within", time.monotonic() - begin, 5, "s")
    row.end(sender)
    row.done, row.lost = "it sends, they leave, it sends again", "nothing accepted"
    return row


def _try(row: Row, worker: Worker, what: str, *wanted: str) -> None:
    """Claim that a call ends, and in an error with a name if any."""
    try:
        report = _ask(worker, "send")
    except (AssertionError, queue.Empty, BrokenPipeError):
        row.claim(f"{what}: no answer, exit code {worker.process.poll()}", False)
        return
    error = str(report["error"])
    row.claim(f"{what}: {error}", error in wanted if wanted else not error.startswith("unnamed"))
    row.show(f"{what}: “{brief(error) or 'no error'}”")


def _few_in_a_crowd(stage: Stage, limit: int, publishers: int) -> Row:
    row = stage.row(f"a subscriber with {limit} descriptors and {publishers} publishers")
    worker = stage.spawn("cramped", limit).ready()
    before = files(stage.path)
    refused = _ask(worker, "more")["error"]
    row.done, row.lost = "each connects to it", "nothing"
    if refused:  # that is a way to survive it
        row.show(f"refused from the start: “{brief(refused)}”")
        row.end(worker)
        return row
    [name] = [name for name in files(stage.path) if name.endswith(".sock") and name not in before]
    with ExitStack() as crowd, suppress(zmq.Again):
        for _ in range(publishers):
            crowd.enter_context(Publisher(stage.path / name, timeout=2.0))
    if worker.process.poll() is None:
        row.end(worker)
    else:
        row.lost = "the subscriber: libzmq ends a process that cannot accept a connection"
        row.show(f"exit code {worker.end()}")
        row.claim("it was aborted, where an error had been due", limit > _FEW)
        row.state = NOT_SURVIVED
    return row


class WallClock:
    """A wall clock that can be set, for the processes that have `environment`."""

    def __init__(self, directory: Path) -> None:
        """Build what they preload; raise `OSError` without a C compiler."""
        library, self._setting = directory / "wall_clock.so", directory / "wall_clock"
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run(["cc", "-O", "-shared", "-fPIC", "-o", library, source], check=True)
        self._setting.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._setting)}

    def jump(self, hours: int) -> None:
        """Set it this many hours off the true time."""
        with open(self._setting, "r+b") as file:
            file.write(struct.pack("=q", hours * _HOUR))


def _clock(stage: Stage) -> Row:
    row = stage.row("the wall clock jumps an hour, forth and back")
    try:
        clock = WallClock(stage.scratch)
    except FileNotFoundError:
        return row.skip("there is no C compiler (cc) to build a clock that can be set")
    worker = stage.spawn("clocked", env=clock.environment).ready()
    stuck = stage.spawn("hold", "stuck", "block").ready()
    _ask(worker, "link to it")
    stuck.signal(signal.SIGSTOP)
    worker.tell("it is stopped")
    reports = {}
    for what, hours in (("receive", 1), ("send", 0), ("join", 1), ("close", 0)):
        if what == "join":
            stage.spawn("hold", "silent", "drop").ready().signal(signal.SIGSTOP)
            worker.tell("there is another")
        assert worker.hear()["begins"] == what
        wait(0.3)  # into the middle of what takes a second
        clock.jump(hours)
        reports[what] = worker.hear()
    _judge_timeouts(row, reports)
    _judge_leftovers(stage, row, clock)
    row.end(worker)
    row.done = "in `receive`, `send`, a join, `close`; and beside one who is about to join"
    row.lost = "nothing"
    return row


def _judge_timeouts(row: Row, reports: dict[str, dict[str, float]]) -> None:
    for what, report in reports.items():
        row.claim(f"{what} took only {report['took']:.3f} s", report["took"] >= 1)
        row.at_most(f"{what} of 1 s took", report["took"], 1.5, "s")
        row.claim(f"the clock jumped {report['jumped']} s in {what}", abs(report["jumped"]) > _HOUR / 2)


def _judge_leftovers(stage: Stage, row: Row, clock: WallClock) -> None:
    """What somebody made a moment ago, by the old time, and is about to rename, must not look old."""
    clock.jump(1)
    scratch = stage.path / "00000000deadbeef.new"
    scratch.touch()
    joiner = stage.spawn("joiner", env=clock.environment).ready()
    joiner.tell("join")
    row.equal("a join after the jump", joiner.hear()["error"], "")
    row.claim("took what somebody was about to rename for a leftover", scratch.exists())
    scratch.unlink(missing_ok=True)
    row.end(joiner)
