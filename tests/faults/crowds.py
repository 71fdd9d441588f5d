"""Fault 13: programs that start together. Fault 18: neighbours that are about to join and do not answer."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import zbus
from tests.live.process import Worker
from zbus.roster.directory import Entry, Roster, new_id

from .harness import Row, Stage

_LIMIT = 600.0


def crowds(stage: Stage) -> Iterator[Row]:
    """Each program subscribes and, once all have, sends its first event to all."""
    for count in (60, 100, 200) if not stage.quick else (20,):
        for cores, within in (("", ()), (", on one core", ("taskset", "-c", "0"))):
            yield _crowd(stage.apart(), count, cores, within)


def _crowd(stage: Stage, count: int, cores: str, within: tuple[str, ...]) -> Row:
    row = stage.row(f"{count} programs start together{cores}")
    workers = [stage.spawn("together", count, within=within) for _ in range(count)]
    for worker in workers:
        assert worker.hear(_LIMIT)["ready"]
    begun = time.monotonic()
    sent = _each(workers, "send")
    row.show(f"all had sent after {time.monotonic() - begun:.1f} s")
    reports = _each(workers, "report")
    row.done = f"{count * count:,} first events, each {count} times"
    row.lost = f"{count * count - sum(report['got'] for report in reports):,}, reported or not"
    row.equal("errors of send", [report["error"] for report in sent if report["error"]][:3], [])
    row.equal(
        "events that did not come", [count - report["got"] for report in reports if report["got"] < count], []
    )
    row.equal("events told to be lost", sum(report["lost"] for report in reports), 0)
    row.equal("joiners given up", sum(report["given_up"] for report in reports), 0)
    for worker in workers:
        worker.tell("")
    row.end(*workers)
    return row


def _each(workers: list[Worker], what: str) -> list[dict[str, Any]]:
    for worker in workers:
        worker.tell(what)
    return [worker.hear(_LIMIT) for worker in workers]


def neighbours(stage: Stage) -> Iterator[Row]:
    yield _stopped(stage.apart())
    yield _silent(stage.apart(), "a listener that never speaks", lambda silent: silent.add("drop"))
    yield _silent(
        stage.apart(), "an entry of `block` whose listener never speaks", lambda silent: silent.add("block")
    )
    yield _coming_and_going(stage.apart())
    yield _stopped_block(stage.apart())


class Sender:
    """Sends ten events a second, and keeps how long each took and which failed."""

    def __init__(self, stage: Stage) -> None:
        self.bus = stage.bus()
        self.sub = self.bus.subscribe("neighbours")
        self.took: list[float] = []
        self.errors: list[str] = []
        self.sent = 0
        self.send()

    def send(self) -> None:
        begun = time.monotonic()
        try:
            self.bus.send("neighbours", "hello", "/1", self.sent + 1)
            self.sent += 1
        except zbus.Timeout as error:
            self.errors.append(error.message)
        self.took.append(time.monotonic() - begun)

    def claim(self, row: Row, cost: float) -> None:
        row.show(f"slowest send {max(self.took):.2f} s")
        row.at_most(
            "time that sends took beyond 0.1 s each", sum(max(0, t - 0.1) for t in self.took), cost, "s"
        )
        row.equal("errors of send", self.errors[:2], [])
        got = [self.sub.channel().receive(timeout=10)[0] for _ in range(self.sent)]
        numbers = [evt.data for evt in got if evt is not None]
        row.equal("events beside it", numbers, [*range(1, self.sent + 1)])
        row.lost = f"0 of {self.sent} beside it"


def _stopped(stage: Stage) -> Row:
    """The first has its time; the others, who are seen not to run, cost a moment each."""
    count = stage.size(14, 5)
    row = stage.row(f"{count} `drop` subscribers stop right after they joined, one every 0.8 s")
    workers = stage.spawn_all(count, "late")
    sender = Sender(stage)
    for worker in workers:
        worker.tell("join")
        assert worker.hear()["joined"]
        worker.signal(signal.SIGSTOP)
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            sender.send()
            time.sleep(0.02)
    sender.claim(row, 2.5)
    missed = []
    for worker in workers:
        worker.signal(signal.SIGCONT)
        worker.tell("account")
    for worker in workers:
        facts = worker.hear()
        missed.append(facts["lost"])
        row.equal("numbers that are neither received nor told", facts["silent"], [])
    row.done = f"{sender.sent} events, ten or more between two; then all go on"
    row.show(f"reported to those that had stopped: {sum(missed):,} lost, each exactly")
    row.claim("nobody was told a loss", sum(missed) > 0)
    row.end(*workers)
    return row


class Silent:
    """Listeners in this process that accept and never say a word."""

    def __init__(self, stage: Stage) -> None:
        self.roster = Roster(stage.dir, "default")
        self.held: dict[str, socket.socket] = {}

    def add(self, overflow: str) -> str:
        entry = Entry(new_id(), 1, overflow)
        held = self.held[entry.id] = socket.socket(socket.AF_UNIX)
        held.bind(str(self.roster.socket_path(entry.id)))
        held.listen()
        self.roster.announce(entry, {}, entry._replace(epoch=0))
        return entry.id

    def remove(self, ident: str) -> None:
        self.roster.withdraw(ident)
        self.held.pop(ident).close()

    def close(self) -> None:
        for ident in [*self.held]:
            self.remove(ident)
        self.roster.close()


def _silent(stage: Stage, what: str, add: Callable[[Silent], object]) -> Row:
    row = stage.row(what)
    sender, silent = Sender(stage), Silent(stage)
    add(silent)
    for _ in range(20):
        sender.send()
        if sender.errors:
            row.show(f"a send says: “{sender.errors.pop()}”")
    row.done = "twenty events after it came"
    sender.claim(row, 11)  # of `block`, a send timeout and a look
    silent.close()
    return row


def _coming_and_going(stage: Stage) -> Row:
    row = stage.row("listeners that never speak come and go")
    sender, silent = Sender(stage), Silent(stage)
    count = stage.size(100, 20)
    for _ in range(count):
        ident = silent.add("drop")
        sender.send()
        silent.remove(ident)
        sender.send()
    row.done = f"{count} of them, each there for one send"
    sender.claim(row, 1.5 + 0.05 * count)
    silent.close()
    return row


def _stopped_block(stage: Stage) -> Row:
    row = stage.row("a `block` subscriber stops right after it joined")
    [worker] = stage.spawn_all(1, "late", "block")
    worker.tell("join")
    assert worker.hear()["joined"]
    worker.signal(signal.SIGSTOP)
    with zbus.Bus(dir=stage.dir) as bus:
        try:
            bus.send("neighbours", "hello", "/0", 0, timeout=1)
            row.claim("a send did not wait for it", False)
        except zbus.Timeout as error:
            row.show(f"a send says: “{error.message}”")
            row.claim("the error does not say who holds", f"process {worker.pid}, stopped" in error.message)
        worker.signal(signal.SIGCONT)
        for number in range(1, 11):
            bus.send("neighbours", "hello", "/1", number, timeout=30)
        worker.tell("account 10")
        facts = worker.hear()
    row.done = "one send while it is stopped; then it continues, and ten more follow"
    row.lost = "0 of 10"
    row.equal("lost", (facts["lost"], facts["got"], facts["silent"]), (0, 10, []))
    row.end(worker)
    return row
