"""Fault 16: what is given to `send`, or left when a channel closes, arrives as it is or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import zbus

from .giving import CLASSES, GOOD, MOST_BYTES, TEXTS
from .harness import Row, Stage

__all__ = ["given"]

_MIB = 1 << 20
_NOT_EXACT = (
    "18446744073709551616",
    '{"a": [-9223372036854775809]}',
    "1e400",
    "0.1234567890123456789",
    '{"a": 1, "a": 2}',
    "NaN",
    "[-Infinity]",
    "[" * 300 + "]" * 300,
    '"\\ud800"',
)


def given(stage: Stage) -> Iterator[Row]:
    yield _texts(stage.apart())
    yield _data(stage.apart())
    yield _command(stage.apart())
    yield _backlog(stage.apart())


def _texts(stage: Stage) -> Row:
    row = stage.row("system, kind and path of other classes than `str`")
    count = stage.size(200_000, 2_000)
    sub = stage.bus(capacity=2 * count).subscribe("*")
    giver = stage.spawn("giver").ready()
    giver.tell(f"texts {count}")
    row.equal("sent", giver.hear()["sent"], count)
    got = _received(sub, count)
    row.equal("topics and paths", {(evt.system, evt.kind, evt.path) for evt in got}, {TEXTS})
    row.equal("numbers", [evt.seq for evt in got] == list(range(1, count + 1)), True)
    row.equal("lost", sub.channel().lost, 0)
    row.end(giver)
    row.done = (
        f"{count:,} events: plain, `(str, Enum)`, `StrEnum`, and two classes that compare in their own way"
    )
    row.lost = f"{count - len(got):,} of {count:,}"
    row.show(f"one topic of {len(CLASSES)} classes, numbered through")
    return row


def _data(stage: Stage) -> Row:
    row = stage.row("data that would reach a receiver changed")
    rounds = stage.size(20, 1)
    sub = stage.bus().subscribe("*")
    giver = stage.spawn("giver").ready()
    giver.tell(f"data {rounds}")
    report = giver.hear()
    row.equal("went out", report["went"], [])
    row.equal("other errors", report["others"], [])
    got = _received(sub, rounds)
    row.equal("what arrived", {(evt.path, str(evt.data)) for evt in got}, {("/good", "{'a': None}")})
    row.equal("numbers", [evt.seq for evt in got], list(range(1, rounds + 1)))
    row.equal("malformed", sub.channel().malformed, 0)
    row.equal("system", {evt.system for evt in got}, {GOOD})
    row.end(giver)
    row.done = (
        "NaN, infinities, large integers, twin keys, fragments, rings; in 7 kinds of containers, two deep"
    )
    row.lost = f"each, by an exception: `Invalid` {report['refused']:,} times"
    row.show("0 malformed frames; the events between them arrived, numbered without a hole")
    return row


def _command(stage: Stage) -> Row:
    row = stage.row("the same given to `zbus send`")
    sub = stage.bus().subscribe("*")
    for text in _NOT_EXACT:
        code, error = _zbus_send(stage, text)
        row.claim(f"{text[:30]} was accepted", code != 0)
        row.claim(f"{text[:30]}: {error}", error.startswith("zbus: ") and error.count("\n") == 1)
    row.equal("exit code", _zbus_send(stage, "18446744073709551615"), (0, ""))
    row.equal("arrived", [evt.data for evt in _received(sub, 1)], [2**64 - 1])
    row.done = f"{len(_NOT_EXACT)} texts: integers, numbers, keys, constants, depth, surrogates"
    row.lost = "each, by an exit code and one line"
    return row


def _zbus_send(stage: Stage, text: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "zbus", "send", "a", "b", "/c", text, "--dir", stage.dir],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def _backlog(stage: Stage) -> Row:
    row = stage.row("`close()` with a backlog")
    count = stage.size(800, 100)
    keeper = stage.spawn("keeper", "drop").ready()
    bus = stage.bus(capacity=1 << 20, capacity_bytes=MOST_BYTES)
    data = bytes(_MIB)
    for _ in range(count):
        bus.send("stream", "k", "/1", data)
    bus.send("end", "k", "/1")
    report = keeper.hear()
    row.equal("received", (report["received"], report["bytes"], report["lost"]), (count, count * _MIB, 0))
    row.at_most("close took", report["seconds"], 1, "s")
    row.at_most("memory, at its peak", report["grown"], 50, "MiB more", speed=False)
    row.end(keeper)
    row.done = (
        f"{count:,} events of 1 MiB queue in a channel when its bus closes; they are received after that"
    )
    row.lost = f"{count - report['received']:,} of {count:,}"
    return row


def _received(sub: zbus.Subscription, count: int) -> list[zbus.Event]:
    """Return so many events, or those that came."""
    got: list[zbus.Event] = []
    try:
        while len(got) < count:
            evt, _ = sub.channel().receive(timeout=30)
            assert evt is not None
            got.append(evt)
    except zbus.Timeout:
        pass
    return got
