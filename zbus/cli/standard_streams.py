"""The standard streams, any of which may be closed, or redirected to a full disk.

If a descriptor from 0 to 2 is free, the next file that is opened gets it, for example a socket of the bus,
and output to stdout or stderr would go there. So each closed stream is replaced first.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

__all__ = ["check_stdin", "check_stdout", "guard", "mute"]

_NAMES = ("stdin", "stdout", "stderr")
_closed: set[str] = set()


class _Closed(io.RawIOBase):
    """Replaces a closed stdout: writing to it is an error, once."""

    muted = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        if not self.muted:
            check_stdout()
        return len(data)


def guard() -> None:
    """Replace each stream that is closed. Call this before anything is opened."""
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            _fill(number)
        else:
            if getattr(sys, name) is not None:
                continue
        _closed.add(name)
        setattr(sys, name, _stand_in(number))


def _fill(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _stand_in(number: int) -> TextIO:
    if number == 1:
        return io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8")
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)


def check_stdin() -> None:
    """Refuse to read a stdin that is closed.

    Raises:
        OSError: it is.
    """
    if "stdin" in _closed:
        raise OSError(errno.EBADF, "stdin is closed, so there is nothing to read")


def check_stdout() -> None:
    """Refuse to print to a stdout that is closed; for commands whose purpose is to print.

    Raises:
        OSError: it is.
    """
    if "stdout" in _closed:
        raise OSError(errno.EBADF, "stdout is closed, so there is nowhere to print to")


def mute() -> None:
    """Discard what stdout has buffered, so that the flush at exit does not fail again."""
    _Closed.muted = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
