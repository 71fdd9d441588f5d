"""The test's end of a process that it starts. Imports no pytest: processes of the tests import it, too."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import zbus

LIMIT = 120.0


def thread_states(pid: int) -> Iterator[tuple[int, str, str]]:
    """Yield number, name and state of each thread of a process; for the states see `man 5 proc`."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            yield int(stat.parent.name), name, rest.split()[0]


def stop(pid: int) -> None:
    """SIGSTOP a process and wait until every thread of it stands still; on a busy machine one may go on."""
    os.kill(pid, signal.SIGSTOP)
    while any(state not in "Tt" for _, _, state in thread_states(pid)):
        time.sleep(0.001)


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
        """Send it a signal. After SIGSTOP, every thread of it stands still."""
        if number == signal.SIGSTOP:
            stop(self.pid)
        else:
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


def receive(sub: zbus.Subscription, timeout: float = 30.0) -> zbus.Event:
    """Return the next event of a subscription that is not closed."""
    evt, ok = sub.channel().receive(timeout=timeout)
    assert ok
    assert evt is not None
    return evt


def directory(bus: zbus.Bus) -> Path:
    """Return the directory of a bus, as it shows it."""
    return Path(repr(bus).removesuffix(">").removesuffix(", closed").rpartition(" at ")[2])
