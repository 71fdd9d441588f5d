"""Faults 5 and 6: a directory that is full or read-only, and one full of what the dead left."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.live.process import Worker

from .foreign import touch
from .harness import Row, Stage, brief, files, until
from .kills import complete, finish, start
from .queues import wait

NAMESPACE = ("unshare", "--mount", "--map-root-user")


def unusable(stage: Stage) -> Iterator[Row]:
    for state, fault, remedy in (("full", "fill", "free"), ("read-only", "read-only", "writable")):
        row = stage.row(f"the runtime directory {state}")
        if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
            yield row.skip("a mount namespace of one's own is not allowed here")
        else:
            yield _break_and_heal(stage, row, fault, remedy)


def _break_and_heal(stage: Stage, row: Row, fault: str, remedy: str) -> Row:
    mount = stage.spawn("mount", within=NAMESPACE).ready()
    inside = ("nsenter", f"--target={mount.pid}", "--user", "--mount", "--preserve-credentials", "--wd")
    listener = stage.spawn("listen", within=inside).ready()
    leaver = stage.spawn("listen", "nothing", within=inside).ready()
    joiner = stage.spawn("joiner", 1, within=inside).ready()
    load = stage.spawn("load", 500, within=inside).ready()
    start(load, "go")
    row.equal("joins before", [error for _, error, _ in joins(joiner)], [""] * 3)
    _do(mount, fault)
    refused = joins(joiner)
    leaver.process.terminate()
    leaver.end()
    wait(stage.size(5, 1))
    row.equal("refused joins", sum(error.startswith("Unavailable: ") for _, error, _ in refused), 3)
    row.at_most("a join fails within", max(took for took, _, _ in refused), 1, "s")
    row.show(f"“{brief(refused[1][1])}”")
    repaired = _do(mount, remedy)
    healed = joins(joiner)
    row.equal("joins once it is repaired", [error for _, error, _ in healed], [""] * 3)
    row.at_most("healed after", max(at for _, _, at in healed) - repaired, 2, "s")
    _, [report] = finish(load, [listener])
    row.lost = f"{complete(row, report)} between connected peers"
    row.end(listener, joiner, load)
    row.equal("files left", _listed(mount), [])
    row.done = "new process, second `drop` and `block` channel of a member; then repaired"
    return row


def joins(joiner: Worker) -> list[tuple[float, str, float]]:
    """Let it join in three ways; return for each how long it took, the error, and when it was done."""
    joiner.tell("join")
    reports = [joiner.hear() for _ in range(3)]
    return [(report["took"], report["error"], report["at"]) for report in reports]


def _do(mount: Worker, what: str) -> float:
    mount.tell(what)
    return float(mount.hear()["at"])


def _listed(mount: Worker) -> list[str]:
    mount.tell("list")
    return list(mount.hear()["files"])


def litter(path: Path, count: int, rng: random.Random) -> None:
    """Leave on a roster what `count` killed processes would: real sockets that nobody listens on."""
    for index in range(count):
        ident, epoch = f"{rng.getrandbits(64):016x}", rng.randrange(1, 100)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path / f"{ident}.sock"))
            stale.listen()
        if index % 10:  # some died before their entry
            (path / f"{ident}.{epoch}.{rng.choice(('drop', 'block'))}").write_bytes(b"{}")
        (path / f"{rng.getrandbits(64):016x}.member").write_bytes(bytes(128) + b"{}")


def stale(stage: Stage) -> Iterator[Row]:
    count = stage.size(1000, 100)
    listener, blocking, stopped = (
        stage.spawn("listen", "stream", overflow).ready() for overflow in ("drop", "block", "drop")
    )
    joiner, load = stage.spawn("joiner").ready(), stage.spawn("load", 500).ready()
    start(load, "go")
    stopped.signal(signal.SIGSTOP)
    row = stage.row(f"{count:,} stale sockets, entries and members")
    before = _inodes(stage.path)
    litter(stage.path, count, stage.random)
    joiner.tell("join")
    report = joiner.hear()
    row.equal("error", report["error"], "")
    row.at_most("the join took", report["took"], 1, "s")
    _join_until(joiner, lambda: set(files(stage.path)) <= set(before))
    row.equal("the living, untouched, and nobody else", _inodes(stage.path), before)
    row.done = "joins until all is clean; one of the living is stopped"

    met = stage.row("the same, found by a publisher that is sending")
    litter(stage.path, count, stage.random)
    touch(stage.path)
    took = until(lambda: not _stale_entries(stage.path, before), 60, "entries of the dead removed")
    met.at_most("all cleaned after", took, 5, "s")
    _join_until(joiner, lambda: set(files(stage.path)) <= set(before))
    met.equal("the living, untouched, and nobody else", _inodes(stage.path), before)
    met.done = "the token moves under load"
    stopped.signal(signal.SIGCONT)
    _, reports = finish(load, [listener, blocking, stopped])
    row.lost = met.lost = "; ".join(sorted({complete(met, found) for found in reports})) + " each"
    yield row
    yield met


def _join_until(joiner: Worker, holds: Callable[[], bool]) -> None:
    """Let it join again and again: each cleans for a moment only."""
    for _ in range(100):
        joiner.tell("join")
        joiner.hear()
        if holds():
            return


def _inodes(path: Path) -> dict[str, int]:
    return {name: (path / name).stat().st_ino for name in files(path)}


def _stale_entries(path: Path, living: dict[str, int]) -> list[str]:
    return [name for name in files(path) if name.endswith((".drop", ".block")) and name not in living]
