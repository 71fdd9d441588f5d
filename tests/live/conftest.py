"""The test's end of the processes in `workers.py`."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import zbus

LIMIT = 60.0


class Worker:
    """A process that runs a function of `workers.py`, or of another `module` like it.

    `within` is a command that runs it, such as `("prlimit", "--nofile=64")`.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        module: str = "tests.live.workers",
        within: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-W", "error", "-m", module, name, *map(str, arguments)]
        self.process = subprocess.Popen(
            [*within, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=None if env is None else {**os.environ, **env},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, line: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self, limit: float = LIMIT) -> dict[str, Any]:
        """Return the next line it prints."""
        line = self._lines.get(timeout=limit)
        assert line, f"{self.process.args} ended"
        facts: dict[str, Any] = json.loads(line)
        return facts

    def ready(self) -> Worker:
        assert self.hear()["ready"]
        return self

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Close its input, so that it ends; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(LIMIT)
        self._thread.join(LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self.process.kill()
        self.end()


Spawn = Callable[..., Worker]


def receive(sub: zbus.Subscription, timeout: float = 5.0) -> zbus.Event:
    """Return the next event of a subscription that is not closed."""
    evt, ok = sub.channel().receive(timeout=timeout)
    assert ok
    assert evt is not None
    return evt


@pytest.fixture
def spawn(zbus_dir: str) -> Iterator[Spawn]:
    """Start workers on the test's bus; whatever still runs at the end is killed and swept from the roster."""
    workers: list[Worker] = []

    def start(name: str, *arguments: object) -> Worker:
        worker = Worker(name, *arguments)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()
        elif worker.process.stdin is not None and not worker.process.stdin.closed:
            worker.end()
    zbus.Bus(dir=zbus_dir).close()  # a join clears away what the killed ones left


@pytest.fixture
def bus(zbus_bus: zbus.Bus) -> zbus.Bus:
    """Open the test's bus in this process."""
    return zbus_bus


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let children get SIGINT even where this run is a background job, for which shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
