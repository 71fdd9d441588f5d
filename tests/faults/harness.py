"""What every case uses: a stage with processes that end with it, rows with verdicts, waits on conditions.

A case is a generator: it is given a `Stage` and yields one `Row` for each fault that it made. A row
fails if one of its claims did not hold. Claims of correctness (losses, leaks, errors and their names) are
always judged; thresholds of speed only in a full run, since a small and noisy one proves nothing.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zbus
from tests.live.process import Worker

__all__ = [
    "FAIL",
    "NOT_RUN",
    "NOT_SURVIVED",
    "Case",
    "Row",
    "Stage",
    "brief",
    "descriptors",
    "files",
    "moments",
    "percentile",
    "resident_mib",
    "stage",
    "threads",
    "until",
]

PASS, FAIL = "pass", "FAIL"
NOT_RUN = "not run"  # something that the fault needs is not on this machine
NOT_SURVIVED = "not survived"  # as docs/reliability.md says

_LOOK_SECONDS = 0.005


@dataclass
class Row:
    """One line of the table."""

    number: int
    fault: str
    strict: bool
    done: str = ""
    lost: str = ""
    figures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    state: str = ""

    def claim(self, what: str, holds: bool) -> None:
        """Fail the row unless `holds`."""
        if not holds and what not in self.broken:
            self.broken.append(what)

    def equal(self, what: str, found: object, wanted: object) -> None:
        """Fail the row unless both are equal; say what they were."""
        self.claim(f"{what}: {found!r}, not {wanted!r}", found == wanted)

    def at_most(self, what: str, value: float, most: float, unit: str, *, speed: bool = True) -> None:
        """Show a figure, and fail the row if it is too large; a threshold of `speed` only in a full run."""
        figure = f"{what} {value:,.3g} {unit} (≤ {most:,g})"
        self.figures.append(figure)
        if self.strict or not speed:
            self.claim(figure, value <= most)

    def end(self, *workers: Worker) -> None:
        """End processes; fail the row unless they do so of themselves, and well."""
        for worker in workers:
            try:
                self.equal("exit code", worker.end(), 0)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                self.claim(f"{worker.process.args!r} does not end", False)

    def show(self, figure: str) -> None:
        """Show a figure that nothing is claimed of."""
        self.figures.append(figure)

    def skip(self, reason: str) -> Row:
        """Mark the row as not run."""
        self.state = NOT_RUN
        self.show(reason)
        return self

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL`, `not run`, or `not survived` where the page says so."""
        return FAIL if self.broken else self.state or PASS


class Stage:
    """Where a case plays: a private bus directory, its own random numbers, and its processes.

    Attributes:
        dir: root directory of the buses; the workers have it as $ZBUS_DIR.
        scratch: a directory for anything else.
        random: seeded by the run's seed and the number of the case.
    """

    def __init__(self, number: int, rng: random.Random, quick: bool, exits: ExitStack) -> None:
        self.number = number
        self.random = rng
        self.quick = quick
        self._exits = exits
        self.dir: str = self.enter(tempfile.TemporaryDirectory(prefix="zfault-"))
        self.scratch = Path(self.enter(tempfile.TemporaryDirectory(prefix="zscratch-")))

    def apart(self) -> Stage:
        """Return the same with another directory: what went wrong on this one is not to be seen there."""
        return Stage(self.number, self.random, self.quick, self._exits)

    @property
    def path(self) -> Path:
        """The directory of the default bus, which all workers use."""
        return Path(self.dir, "v1", "default")

    def size(self, full: int, quick: int) -> int:
        """Return how much of something to do in this run."""
        return quick if self.quick else full

    def row(self, fault: str) -> Row:
        return Row(self.number, fault, strict=not self.quick)

    def spawn(
        self, name: str, *arguments: object, within: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> Worker:
        """Start a process of `workers.py`; it is killed at the latest when the case ends."""
        worker = Worker(
            name,
            *arguments,
            module="tests.faults.workers",
            within=within,
            env={"ZBUS_DIR": self.dir, **(env or {})},
        )
        self._exits.callback(_end, worker)
        return worker

    def spawn_all(self, count: int, name: str, *arguments: object) -> list[Worker]:
        """Start several of the same at once; return them when all are ready."""
        workers = [self.spawn(name, *arguments) for _ in range(count)]
        return [worker.ready() for worker in workers]

    def bus(self, **options: Any) -> zbus.Bus:
        """Open the bus in this process, until the case ends."""
        return self._exits.enter_context(zbus.Bus(dir=self.dir, **options))

    def enter(self, context: Any) -> Any:
        """Enter a context that ends with the case."""
        return self._exits.enter_context(context)

    def peers(self) -> list[zbus.Peer]:
        return zbus.peers(dir=self.dir)

    def join(self) -> None:
        """Let a process join and leave, this one: what it does not clear away stays."""
        with zbus.Bus(dir=self.dir) as bus:
            bus.subscribe("nothing")


Case = Callable[[Stage], Iterator[Row]]


@contextmanager
def stage(number: int, seed: int, quick: bool) -> Iterator[Stage]:
    """Set a stage, and clear it: no process, no file remains."""
    with ExitStack() as exits:
        yield Stage(number, random.Random(f"{seed}/{number}"), quick, exits)


def _end(worker: Worker) -> None:
    process = worker.process
    process.kill()  # if it still runs
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it has not read all it was told
        process.stdin.close()
    if not process.stdout.closed:
        worker.end()


def until(holds: Callable[[], object], limit: float, what: str) -> float:
    """Wait until something holds; return the seconds that took.

    Raises:
        AssertionError: it does not within `limit` seconds.
    """
    start = time.monotonic()
    while not holds():
        assert time.monotonic() < start + limit, f"not within {limit:g} s: {what}"
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - start


def moments(seconds: float) -> Iterator[None]:
    """Yield ten times a second, for as long as a load is to last."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.1)


def percentile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered * 2 if len(ordered) == 1 else ordered, n=100, method="inclusive")
    return cuts[percent - 1]


def brief(error: str) -> str:
    """Return an error for the table: without its kind, and without directories."""
    return re.sub(r"/\S*/", "", error.removeprefix("Unavailable: "))


def descriptors(pid: int) -> list[str]:
    """Return what a process has open, by name: sockets by their inode."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return sorted(found)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def files(path: Path) -> list[str]:
    """Return the names on a roster, but for the token."""
    return sorted(name for name in os.listdir(path) if name != "token")
