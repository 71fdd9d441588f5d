"""The processes of a soak, seen from outside: what starts, stops, continues, kills and ends them.

Whatever is done to one is noted in its `Fate`, for the checker. Nothing here is on the bus.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .checker import Fate

__all__ = ["LIMIT", "Failure", "Process", "now", "wait_for"]

ROOT = Path(__file__).parents[2]
LIMIT = 60.0
"""Seconds in which a process obeys, whatever the machine is doing; beyond that it hangs."""

now = time.monotonic_ns


class Failure(Exception):
    """A process hangs, or ended as it should not. The text says which and what it had to say."""


class Process:
    """One process: a peer that obeys lines, or a tool that runs through.

    Attributes:
        fate: what was done to it.
        stopped_until: when to continue it (monotonic seconds); 0 if it runs.
    """

    def __init__(
        self, name: str, role: str, command: list[str], directory: Path, environment: dict[str, str]
    ) -> None:
        """Start `python COMMAND`; what it says goes to files in `directory`, a peer's answers to a pipe."""
        self.errors = directory / f"{name}.{role}.err"
        self._out = directory / f"{name}.{role}.out"
        self.tool = role not in ("publish", "listen")
        self.stopped_until = 0.0
        self._ready = False
        begun = now()
        with self.errors.open("wb") as err, self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", *command],
                stdin=subprocess.DEVNULL if self.tool else subprocess.PIPE,
                stdout=out if self.tool else subprocess.PIPE,
                stderr=err,
                cwd=ROOT,
                env={**os.environ, **environment},
            )
        self.fate = Fate(name, role, self._process.pid, str(directory), begun)

    def __str__(self) -> str:
        return f"{self.fate.role} {self.fate.name} (process {self.fate.pid})"

    @property
    def ended(self) -> bool:
        """Whether it has ended; also takes note of that."""
        if self._process.poll() is None:
            return False
        self.fate.ended = self.fate.ended or now()
        return True

    @property
    def code(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.returncode

    @property
    def ready(self) -> bool:
        """Whether a peer has said that it is on the bus."""
        self._ready = self._ready or self.hear("ready", 0)
        return self._ready

    def look(self) -> None:
        """Take note of when `zbus sub` has said that it is subscribed: some time later than it was."""
        if self.fate.role == "sub" and not self.fate.opened and "subscribed to" in self.said():
            self.fate.opened = now()

    def tell(self, line: str) -> None:
        """Give it an order; one that has died is found out when it is seen to have ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), f"{line}\n".encode())

    def hear(self, word: str, patience: float = LIMIT) -> bool:
        """Wait for a peer to say `word`; return whether it did.

        It writes one line at a time and waits then, so a line comes in one piece.
        """
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], patience)
        return bool(readable) and os.read(self._process.stdout.fileno(), 100).strip() == word.encode()

    def stop(self, seconds: float) -> None:
        """SIGSTOP it for a while."""
        self.stopped_until = time.monotonic() + seconds
        self.fate.stops.append((now(), 1 << 62))
        self._process.send_signal(signal.SIGSTOP)

    def proceed(self) -> None:
        """SIGCONT it, if it is stopped."""
        if self.stopped_until:
            self._process.send_signal(signal.SIGCONT)
            self.stopped_until = 0.0
            self.fate.stops[-1] = (self.fate.stops[-1][0], now())

    def kill(self) -> None:
        """SIGKILL it, stopped or not."""
        if not self.ended:
            self.fate.killed = now()
            self._process.kill()
        self._process.wait()
        self.proceed()
        self._close()

    def dismiss(self) -> None:
        """Let a peer end in the orderly way."""
        self.proceed()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def finish(self, patience: float = LIMIT) -> None:
        """Wait for the orderly end.

        Raises:
            Failure: it hangs, or failed.
        """
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGUSR1)  # a peer then writes where each thread is
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            self.kill()
            raise Failure(f"{self} did not end within {patience:g} s: {self.said()}") from None
        assert self.ended
        self._close()
        if self.code and not self.tool:
            raise Failure(f"{self} ended with {self.code}: {self.said()}")

    def said(self) -> str:
        """Return the end of its standard error."""
        return self.errors.read_text(errors="replace")[-2000:]

    def output(self) -> str:
        """Return the standard output of a tool."""
        return self._out.read_text()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def wait_for(processes: Sequence[Process], patience: float = LIMIT) -> list[str]:
    """Wait for the orderly end of each; return what went wrong."""
    wrong = []
    for process in processes:
        try:
            process.finish(patience)
        except Failure as failure:
            wrong.append(str(failure))
    return wrong
