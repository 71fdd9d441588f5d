"""Fault 17: what froze or hung a process: forks amid threads, signal handlers, greenlets for threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.live.test_fork_amid import AMID
from tests.live.test_handlers import STRESS
from tests.live.test_patched import PATCHES, PROGRAM
from tests.live.test_threads import WAITS

from .harness import Row, Stage, files

__all__ = ["hanging"]

_POLICIES = ("drop", "block", "latest")
_LIMIT = 100.0


def hanging(stage: Stage) -> Iterator[Row]:
    yield _forks(stage.apart())
    yield _handlers(stage.apart())
    yield _patched(stage.apart(), "gevent")
    yield _patched(stage.apart(), "eventlet")
    yield _waits(stage.apart())


def _run(stage: Stage, row: Row, program: str, *arguments: object, limit: float = _LIMIT) -> str:
    """Return what a program on the stage's bus prints; fail the row unless it ends in time and well."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    environment = {**os.environ, "ZBUS_DIR": stage.dir}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        row.claim(f"a program hangs: {arguments}", False)
        return ""
    row.equal(f"exit code and errors, {arguments}", (done.returncode, done.stderr[-500:]), (0, ""))
    return done.stdout


def _left(stage: Stage, row: Row) -> None:
    stage.join()
    row.equal("files left", files(stage.path), [])


def _forks(stage: Stage) -> Row:
    row = stage.row("fork while other threads use buses")
    count = stage.size(100, 10)
    program = AMID.format(count=count, garbage=True)
    statuses = Counter(_run(stage, row, program, limit=_LIMIT + 5 * count).splitlines())
    row.equal("exit statuses of the children", dict(statuses), {"0": count})
    _left(stage, row)
    row.done = (
        f"{count} children, while threads send, subscribe, open, drop and close buses; each sends, joins,"
        " receives, closes, sends again and comes to its end"
    )
    row.lost = "nothing"
    row.show(f"{count - statuses['0']} of {count} hung or failed")
    return row


def _handlers(stage: Stage) -> Row:
    row = stage.row("a signal handler that uses the default bus")
    handled, longest = 0, 0.0
    for uses in ("send close", "drop block latest", "receive close send block send_many close"):
        for others in (0, 2):
            report = _run(stage, row, STRESS, stage.size(5, 1), uses, others)
            found = json.loads(report) if report else {"handled": 0, "longest": 99.0}
            handled, longest = handled + found["handled"], max(longest, found["longest"])
    _left(stage, row)
    row.done = (
        f"{handled:,} signals during sends, opens, joins, receives and closes, alone and beside threads that"
        " do the same: the handler sends, joins, closes"
    )
    row.lost = "nothing"
    row.at_most("the longest handler", longest, 4, "s", speed=False)
    return row


def _patched(stage: Stage, patch: str) -> Row:
    row = stage.row(
        f"`monkey.patch_all()` of {patch}" if patch == "gevent" else f"`monkey_patch()` of {patch}"
    )
    start = time.monotonic()
    programs = [(order, overflow) for order in ("before", "after") for overflow in _POLICIES]
    for order, overflow in programs[2:4] if stage.quick else programs:
        lines = {"before": "", "after": "", order: PATCHES[patch]}
        program = PROGRAM.format(**lines, overflow=overflow, ours=4 if overflow == "latest" else 3)
        row.equal("printed", _run(stage, row, program), "done\n")
    _left(stage, row)
    row.done = "before `import zbus` and after it; subscribes, sends, receives, closes"
    row.lost = "nothing; signal mask and scheduling of the main thread are as before"
    row.show(f"{2 if stage.quick else 6} programs in {time.monotonic() - start:.3g} s")
    return row


def _waits(stage: Stage) -> Row:
    row = stage.row("a program that blocks its signals and waits for them in `sigwait`")
    rounds = stage.size(3, 1)
    for _ in range(rounds):
        for when in ("before", "after"):
            for overflow in _POLICIES:
                row.equal("printed", _run(stage, row, WAITS, when, overflow), "ended properly\n")
    _left(stage, row)
    row.done = f"SIGUSR1 and SIGTERM to {6 * rounds} programs, blocked before zbus started threads, and after"
    row.lost = "no signal"
    return row
