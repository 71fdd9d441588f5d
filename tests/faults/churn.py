"""Fault 7: joins and leaves without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from tests.live.process import Worker

from .harness import Row, Stage, descriptors, files, resident_mib, threads, until
from .kills import complete, finish, start

_AT_A_TIME = 20
_WARM_UP = 5


def joins_and_leaves(stage: Stage) -> Iterator[Row]:
    row = stage.row("joins and leaves, 20 at a time")
    each = stage.size(50, 3)
    listener = stage.spawn("listen", "steady").ready()
    load = stage.spawn("load", 500, "steady").ready()
    start(load, "go")
    churners = [stage.spawn("churn", stage.random.random()) for _ in range(_AT_A_TIME)]
    for churner in churners:
        churner.ready()
    # What so many at a time need, the memory of their connections above all, is there from here on.
    _run(churners, _WARM_UP)
    start(load, "churn")
    everybody = [listener, load, *churners]
    before, memory = [held(worker) for worker in everybody], [resident_mib(one.pid) for one in everybody]
    left = files(stage.path)
    kept = max(_run(churners, each))
    start(load, "quiet")
    _wait_for_no_more(everybody, before)
    row.equal("who holds more: threads, descriptors, before", _more(everybody, before), [])
    row.equal("kinds of files", _kinds(files(stage.path)), _kinds(left))
    grown = [resident_mib(one.pid) - was for one, was in zip(everybody, memory, strict=True)]
    row.at_most("memory of a steady process", max(grown[:2]), 10, "MiB more", speed=False)
    row.at_most("of a joining one", max(grown[2:]), 10, "MiB more", speed=False)
    row.show(f"{kept - max(memory[2:]):.1f} MiB with what malloc keeps")
    _, [report] = finish(load, [listener])
    row.lost = f"{complete(row, report)} beside it"
    row.done = f"{each * _AT_A_TIME:,}: a bus, a `drop` or a `block` channel, each hears its own event"
    yield row


def held(worker: Worker) -> tuple[int, int]:
    return threads(worker.pid), len(descriptors(worker.pid))


def _kinds(names: list[str]) -> list[str]:
    return sorted(name.split(".")[-1] for name in names)


def _more(workers: list[Worker], before: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return what each holds and held that holds more than before."""
    now = [held(worker) for worker in workers]
    return [(*is_, *was) for is_, was in zip(now, before, strict=True) if is_[0] > was[0] or is_[1] > was[1]]


def _wait_for_no_more(workers: list[Worker], before: list[tuple[int, int]]) -> None:
    """Give libzmq, which closes connections in its own time, a while to do so."""
    with suppress(AssertionError):
        until(lambda: not _more(workers, before), 10, "threads and descriptors as before")


def _run(churners: list[Worker], rounds: int) -> list[float]:
    """Let them all join and leave at a time; then let each look at the roster, to let go of who has left.

    Returns the memory of each before malloc gave back what it had in reserve.
    """
    for churner in churners:
        churner.tell(rounds)
    kept = [churner.hear(180)["mib"] for churner in churners]
    for churner in churners * 2:
        churner.tell(0)
        churner.hear()
    return kept
