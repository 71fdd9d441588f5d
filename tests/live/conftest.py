"""What live tests get: their own bus directory, processes, and SIGINT as children need it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import zbus

from .nats import Server, nats_server
from .process import Spawn, Worker
from .silent import Silent


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


@pytest.fixture
def machines(zbus_dir: str) -> Path:
    """Return a directory with a short name, in which a test of several machines has the buses of each."""
    return Path(zbus_dir)


@pytest.fixture
def server(machines: Path) -> Iterator[Server]:
    """Run a NATS server with JetStream."""
    with nats_server(machines) as running:
        yield running


@pytest.fixture(autouse=True, scope="module")
def interruptible() -> Iterator[None]:
    """Let children get SIGINT even where this run is a background job, for which shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def silent(zbus_dir: str) -> Iterator[Silent]:
    """Let the test add subscribers that never answer."""
    made = Silent(zbus_dir)
    yield made
    made.leave()
    made.roster.close()
