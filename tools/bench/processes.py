"""Start the processes that are measured, and collect what they report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Figures", "await_ready", "finish", "pair", "release", "start", "waiting", "wake_ups"]

TIMEOUT = 120.0
AT_REST_SECONDS = 2.0
IDLE_SECONDS = 5.0

Figures = dict[str, float]


def start(role: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a role of `peers.py`, or `module.role` for one of another file."""
    module, _, name = role.rpartition(".")
    file = Path(__file__).with_name(f"{module or 'peers'}.py")
    command = [sys.executable, str(file), name, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Figures:
    """Wait for the end of a process and return the figures that it reports last."""
    out, _ = process.communicate(timeout=TIMEOUT)
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    figures: Figures = json.loads(out.splitlines()[-1] if out.strip() else "{}")
    return figures


def pair(first: tuple[object, ...], second: tuple[object, ...]) -> Figures:
    """Run two processes to their ends; return what both report."""
    processes = [start(*map(str, first)), start(*map(str, second))]
    return {name: value for process in processes for name, value in finish(process).items()}


def await_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a process says that it is ready."""
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit(f"{process.args} failed")


def release(processes: list[subprocess.Popen[str]]) -> None:
    """Wait until all processes are ready; then let them go on."""
    for process in processes:
        await_ready(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def wake_ups(processes: list[subprocess.Popen[str]]) -> list[float]:
    """Return how often a second the threads of each process are woken while it is idle."""
    time.sleep(AT_REST_SECONDS)
    before = [_switches(process.pid) for process in processes]
    time.sleep(IDLE_SECONDS)
    after = [_switches(process.pid) for process in processes]
    return [(now - then) / IDLE_SECONDS for then, now in zip(before, after, strict=True)]


def _switches(pid: int) -> int:
    """Return how often the threads of a process have waited so far."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    return sum(int(words[1]) for words in lines if words[0] == "voluntary_ctxt_switches:")


@contextmanager
def waiting(directory: str, count: int) -> Iterator[None]:
    """Keep `count` subscribing processes on the bus."""
    processes = [start("zbus_wait", directory) for _ in range(count)]
    for process in processes:
        await_ready(process)
    try:
        yield
    finally:
        for process in processes:
            process.communicate(timeout=TIMEOUT)
