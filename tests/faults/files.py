"""Fault 12: files of the roster that a power cut, or somebody, has damaged."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zbus
from tests.live.process import Worker

from .directory import litter
from .foreign import Publisher
from .harness import NOT_SURVIVED, Row, Stage, files, until
from .kills import complete, finish, start

_SECONDS = 5.0
_TWO_DAYS = 2 * 86_400


def _emptied(path: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def _cut_short(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def _garbled(path: Path, rng: random.Random) -> None:
    with open(path, "r+b") as file:
        file.write(rng.randbytes(path.stat().st_size))


def _removed(path: Path, rng: random.Random) -> None:
    path.unlink()


def _replaced(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.write_bytes(rng.randbytes(rng.randrange(300)))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "emptied": _emptied,
    "cut short": _cut_short,
    "garbled": _garbled,
    "removed": _removed,
    "replaced": _replaced,
}
_OF_A_SOCKET = ("removed", "replaced")
_TEXT_DAMAGES = ("emptied", "cut short", "garbled")


def damaged(stage: Stage) -> Iterator[Row]:
    yield _after_a_power_cut(stage)
    yield _text_damaged(stage, "entry", "drop", _TEXT_DAMAGES)
    yield _text_damaged(stage, "member file", "member", (*_TEXT_DAMAGES, "removed"))
    yield _unlisted(stage, "entry", "drop", "removed")
    yield _unlisted(stage, "socket", "sock", "removed")
    yield _unlisted(stage, "socket", "sock", "replaced")
    yield _token_garbled(stage)
    yield _token_removed(stage)
    yield _token_truncated(stage)


def _after_a_power_cut(stage: Stage) -> Row:
    row = stage.row("power cut: any files of a roster damaged, nobody runs")
    rng, rounds = stage.random, stage.size(300, 40)
    stage.join()
    single = [("token", damage) for damage in DAMAGES]
    single += [(kind, damage) for kind in ("drop", "member") for damage in DAMAGES]
    single += [("sock", damage) for damage in _OF_A_SOCKET]
    for index in range(rounds):
        litter(stage.path, 5, rng)
        _leave_scratch(stage.path, rng)
        if index < len(single):
            kind, damage = single[index]
            name = "token" if kind == "token" else rng.choice(sorted(stage.path.glob(f"*.{kind}"))).name
            _damage(stage.path / name, damage, rng)
        else:
            for name in sorted(os.listdir(stage.path)):
                if rng.randrange(2) and not name.endswith(".new"):
                    _damage(stage.path / name, rng.choice(sorted(DAMAGES)), rng)
        _join_and_look(stage, row)
    row.done = f"{len(single)} damages one at a time, then {rounds - len(single)} times half of all files"
    row.lost = "nothing; the next join clears away the rest"
    return row


def _damage(path: Path, damage: str, rng: random.Random) -> None:
    if path.is_socket() and damage not in _OF_A_SOCKET:
        damage = "removed"
    if path.stat().st_size or damage not in ("cut short",):
        DAMAGES[damage](path, rng)


def _leave_scratch(path: Path, rng: random.Random) -> None:
    scratch = path / f"{rng.getrandbits(64):016x}.new"
    scratch.write_bytes(rng.randbytes(rng.randrange(200)))
    long_ago = scratch.stat().st_mtime - _TWO_DAYS
    os.utime(scratch, (long_ago, long_ago))


def _join_and_look(stage: Stage, row: Row) -> None:
    try:
        with zbus.Bus(dir=stage.dir) as bus:
            sub = bus.subscribe("again")
            bus.send("again", "k", "/1")
            row.equal("heard", sub.channel().receive(timeout=5)[1], True)
            kinds = sorted(name.split(".")[-1] for name in files(stage.path))
            row.equal("kinds of files", kinds, ["drop", "member", "sock"])
            row.equal("who is there", [peer.alive for peer in stage.peers()], [True, True])
    except zbus.Error as error:
        row.claim(f"the join failed: {error}", False)
    row.claim("the token is too short", (stage.path / "token").stat().st_size >= 8)


class Cast:
    """A resident whose files are damaged, a bystander, a publisher that both hear, and a joiner."""

    def __init__(self, stage: Stage) -> None:
        self._path = stage.path
        self.resident = stage.spawn("resident").ready()
        [self.member] = stage.path.glob("*.member")
        [self.socket] = stage.path.glob("*.sock")
        self.bystander = stage.spawn("listen").ready()
        self.joiner = stage.spawn("joiner").ready()
        self.load = stage.spawn("load", 500).ready()
        start(self.load, "go")

    def file(self, kind: str) -> Path:
        """Return a file of the resident; its entry has another name after each of its joins."""
        if kind == "drop":
            [entry] = self._path.glob(f"{self.socket.stem}.*.drop")
            return entry
        return self.socket if kind == "sock" else self.member

    def hears_on(self, timeout: float = _SECONDS) -> bool:
        """Return whether the resident gets, within a time, what is sent from now on."""
        number = start(self.load, os.urandom(4).hex())
        try:
            until(lambda: ask(self.resident, "count")["last"] >= number, timeout, "an event")
        except AssertionError:
            assert self.resident.process.poll() is None, "the resident ended"
            return False
        return True

    def end(self, row: Row) -> dict[str, Any]:
        """End the load; claim that the bystander lost nothing. Return what the resident got."""
        _, [found] = finish(self.load, [self.bystander])
        row.lost = complete(row, found)
        report = ask(self.resident, "count")
        row.equal("out of order", report["disorder"], 0)
        row.end(self.resident, self.bystander, self.joiner, self.load)
        return report


def ask(worker: Worker, what: str) -> dict[str, Any]:
    worker.tell(what)
    return worker.hear()


def _text_damaged(stage: Stage, what: str, kind: str, damages: tuple[str, ...]) -> Row:
    stage = stage.apart()
    row = stage.row(f"{what} of a running member {', '.join(damages)}")
    cast = Cast(stage)
    row.done = "after each a malformed frame for it to count, and joins"
    for damage in damages:
        _damage(cast.file(kind), damage, stage.random)
        try:
            _use_all(stage, cast, row)
        except (AssertionError, OSError) as error:
            row.claim(f"{damage}: {error}, exit code {cast.resident.process.poll()}", False)
            row.lost = "the member"
            return row
    report = cast.end(row)
    row.equal("lost", (report["lost"], report["runs"]), (0, [[1, report["last"]]]))
    return row


def _use_all(stage: Stage, cast: Cast, row: Row) -> None:
    """Let everybody do what reads or writes the files of the resident."""
    try:
        stage.peers()
    except Exception as error:
        row.claim(f"peers() raised {type(error).__name__}: {error}", False)
    malformed = ask(cast.resident, "count")["malformed"]
    with Publisher(cast.socket) as foreign:
        foreign.socket.send(b"stream\0")
        until(lambda: ask(cast.resident, "count")["malformed"] > malformed, _SECONDS, "it is counted")
    row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    row.equal("it joins again", ask(cast.resident, "join")["error"], "")
    row.claim("it hears no more", cast.hears_on())


def _unlisted(stage: Stage, what: str, kind: str, damage: str) -> Row:
    """Without entry or socket a member is gone to all others, until it notices, or joins."""
    stage = stage.apart()
    row = stage.row(f"{what} of a running member {damage}")
    cast = Cast(stage)
    DAMAGES[damage](cast.file(kind), stage.random)
    row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    began = time.monotonic()
    row.claim("it hears no more", cast.hears_on())
    row.at_most("a new event reaches it after", time.monotonic() - began, 3, "s")
    row.equal("its own next join", ask(cast.resident, "join")["error"], "")
    row.claim("it hears no more after its own join", cast.hears_on())
    report = cast.end(row)
    row.equal("received + lost", report["received"] + report["lost"], report["last"])
    row.lost = f"{report['lost']:,} of {report['last']:,}, each counted"
    row.done = "another process joins, then the member itself"
    return row


def _token_garbled(stage: Stage) -> Row:
    stage = stage.apart()
    row = stage.row("token of a running bus garbled, its size kept")
    rounds = stage.size(100, 10)
    cast = Cast(stage)
    for _ in range(rounds):
        _garbled(stage.path / "token", stage.random)
        row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    row.claim("it hears no more", cast.hears_on())
    report = cast.end(row)
    row.equal("lost", (report["lost"], report["runs"]), (0, [[1, report["last"]]]))
    row.done = f"{rounds} times, a join after each"
    return row


def _token_removed(stage: Stage) -> Row:
    stage = stage.apart()
    row = stage.row("token of a running bus removed")
    cast = Cast(stage)
    (stage.path / "token").unlink()
    row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    late = stage.spawn("resident").ready()
    number = start(cast.load, "late")
    until(lambda: ask(late, "count")["last"] >= number, _SECONDS, "a new process hears the old")
    row.end(late)
    row.done = "a new process joins; those that run go on"
    row.claim("it hears no more", cast.hears_on())
    cast.end(row)
    return row


def _token_truncated(stage: Stage) -> Row:
    """Every process has it mapped, and the kernel kills who looks at a page that is no longer there."""
    stage = stage.apart()
    row = stage.row("token of a running bus truncated")
    cast = Cast(stage)
    os.truncate(stage.path / "token", 0)
    until(lambda: cast.load.process.poll() is not None, _SECONDS, "the publisher looks at it")
    code = cast.load.end()
    row.equal("how the publisher ended", code, -signal.SIGBUS)
    row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    cast.load = stage.spawn("load", 500).ready()
    start(cast.load, "again")
    row.claim("those that only listened hear the next publisher", cast.hears_on())
    row.end(cast.resident)
    row.done = "then a process joins, and a publisher is started again"
    row.lost = "the publisher, by SIGBUS; those that only listened go on once somebody has joined"
    row.state = NOT_SURVIVED
    return row
