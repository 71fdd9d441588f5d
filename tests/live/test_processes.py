"""What the kernel says of a process: real ones, that sleep, spin, wait for a CPU, are stopped, are gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zbus.runtime.process_state import ProcessState, listening_process, process_state, waits_for_cpu

SLEEP = "import sys; sys.stdin.read()"
SPIN = "while True: pass"


@contextmanager
def process(program: str, *, cpu: int | None = None) -> Iterator[int]:
    within = ["taskset", "-c", str(cpu)] if cpu is not None else []
    running = subprocess.Popen([*within, sys.executable, "-c", program], stdin=subprocess.PIPE)
    try:
        yield running.pid
    finally:
        running.kill()
        running.communicate()


def seen(pid: int, wanted: str) -> ProcessState:
    """Return a look at a process once it is as `wanted`: an attribute of `ProcessState` or `idle`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = process_state(pid)
        assert found is not None
        if (not found.ready and found.cpu > 0) if wanted == "idle" else getattr(found, wanted):
            return found
        os.sched_yield()
    raise AssertionError(f"{pid} was never {wanted}")


def busy_share(pid: int) -> float:
    """Return how often a process was seen to wait for a CPU, of 20 times in a second."""
    found = []
    before = process_state(pid)
    for _ in range(20):
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            os.sched_yield()
        after = process_state(pid)
        assert before is not None
        assert after is not None
        found.append(waits_for_cpu(before, after))
        before = after
    return sum(found) / len(found)


def test_a_process_that_sleeps_is_not_held_up() -> None:
    with process(SLEEP) as pid:
        before = seen(pid, "idle")
        assert not before.stopped
        assert busy_share(pid) == 0


def test_a_process_that_is_stopped_is_seen_to_be() -> None:
    with process(SLEEP) as pid:
        seen(pid, "idle")
        os.kill(pid, signal.SIGSTOP)
        assert not seen(pid, "stopped").ready
        os.kill(pid, signal.SIGCONT)
        assert not seen(pid, "idle").stopped


def test_processes_that_share_a_cpu_are_held_up() -> None:
    with process(SPIN, cpu=0) as pid, process(SPIN, cpu=0) as other, process(SPIN, cpu=0):
        seen(pid, "ready")
        seen(other, "ready")
        assert busy_share(pid) > 0.8


def test_a_process_that_is_gone_cannot_be_seen() -> None:
    with process(SLEEP) as pid:
        pass
    assert process_state(pid) is None


def test_the_calling_thread_does_not_count() -> None:
    found = process_state(os.getpid())
    assert found is not None
    assert not found.stopped


def test_who_listens_is_told_by_the_kernel(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert listening_process(path) == 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert listening_process(path) == 0
        server.listen()
        assert listening_process(path) == os.getpid()
    assert listening_process(path) == 0
