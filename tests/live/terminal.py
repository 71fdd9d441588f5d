"""A command on a terminal of a known size, as a person sees it and types at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from .cli import ZBUS
from .process import LIMIT

__all__ = ["Terminal", "terminal"]


class Terminal:
    """A running command, and what its terminal has got so far."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self.shown = ""

    def await_text(self, *texts: str) -> str:
        """Wait until all `texts` have been shown since the last call; return what has."""
        begun, deadline = len(self.shown), time.monotonic() + LIMIT
        while any(text not in bare(self.shown[begun:]) for text in texts):
            assert time.monotonic() < deadline, self.shown[begun:]
            if select.select([self._screen], [], [], 1.0)[0]:
                self.shown += os.read(self._screen, 65_536).decode(errors="replace")
        return bare(self.shown[begun:])

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def modes(self) -> list[object]:
        """Return the modes of the terminal."""
        return termios.tcgetattr(self._screen)

    def ended(self) -> int:
        """Return the exit code, once the command ends."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._screen], [], [], seconds)[0]:
            return False
        with suppress(OSError):  # how Linux reports that nobody has the terminal open any more
            found = os.read(self._screen, 65_536).decode(errors="replace")
            self.shown += found
            return bool(found)
        return False


def bare(text: str) -> str:
    """Return text without the codes that control the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r\n", "\n")


@contextmanager
def terminal(
    *args: str, command: Sequence[str] = ZBUS, columns: int = 80, lines: int = 30, **env: str
) -> Iterator[Terminal]:
    """Start `zbus ARGS`, or another command, on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    try:
        with subprocess.Popen(
            [*command, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, "TERM": "xterm", **env},
        ) as process:
            try:
                yield Terminal(process, ours)
            finally:
                process.kill()
    finally:
        os.close(theirs)
        os.close(ours)
