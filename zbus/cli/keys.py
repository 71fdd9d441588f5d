"""Single keys from a terminal, without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.threads import sleep

__all__ = ["keys"]

_KEY_BYTES = 32  # an arrow key sends several


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Within the block, have the terminal send each key at once; yield a call that waits for one.

    The call takes how many seconds to wait, and returns the key, or an empty string if none was pressed. If
    stdin is not a terminal, or this is a background job, it only waits.
    """
    try:
        before = termios.tcgetattr(sys.stdin.fileno()) if _has_terminal() else None
    except (OSError, termios.error):
        before = None
    if before is None:
        yield _no_key
        return
    terminal = sys.stdin.fileno()
    try:
        tty.setcbreak(terminal)
        yield lambda seconds: _key(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _has_terminal() -> bool:
    """Return whether stdin is a terminal to use. The kernel stops a background job that tries to."""
    if not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # another session's, whose jobs this process is none of
        return True


def _no_key(seconds: float) -> str:
    sleep(seconds)
    return ""


def _key(terminal: int, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    if not select.select([terminal], [], [], seconds)[0]:
        return ""
    pressed = os.read(terminal, _KEY_BYTES).decode(errors="replace")
    if not pressed:  # the terminal is gone, so it is readable all the time
        sleep(max(0.0, deadline - time.monotonic()))
    return pressed
