"""Fault 7: joins and leaves without end."""

from __future__ import annotations

from collections.abc import Iterator

from tests.live.conftest import Worker

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
    _run(churners, each)
    start(load, "quiet")
    until(lambda: [held(worker) for worker in everybody] <= before, 10, "threads and descriptors as before")
    row.equal("threads, descriptors", [held(worker) for worker in everybody], before)
    row.equal("kinds of files", _kinds(files(stage.path)), _kinds(left))
    grown = [resident_mib(one.pid) - was for one, was in zip(everybody, memory, strict=True)]
    row.at_most("memory of a steady process", max(grown[:2]), 10, "MiB more", speed=False)
    row.at_most("of a joining one", max(grown[2:]), 10, "MiB more", speed=False)
    _, [report] = finish(load, [listener])
    row.lost = f"{complete(row, report)} beside it"
    row.done = f"{each * _AT_A_TIME:,}: a bus, a `drop` or a `block` channel, each hears its own event"
    yield row


def held(worker: Worker) -> tuple[int, int]:
    return threads(worker.pid), len(descriptors(worker.pid))


def _kinds(names: list[str]) -> list[str]:
    return sorted(name.split(".")[-1] for name in names)


def _run(churners: list[Worker], rounds: int) -> None:
    """Let them all join and leave at a time; then let each look at the roster, to let go of who has left."""
    for churner in churners:
        churner.tell(rounds)
    for churner in churners:
        churner.hear()
    for churner in churners * 2:
        churner.tell(0)
        churner.hear()
