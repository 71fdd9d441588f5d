"""Reports: what zbus logs, always while the logging thread holds none of zbus's locks.

A logging handler is users' code. It may send on the very bus that reports, or wait for a thread that waits
for that bus. So a report made under a lock is queued, and emitted by the first of these:

    the thread itself, by `emit_reports`, once it has released the lock
    the housekeeping thread, within a second
    the exit of the process
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from .locks import Lock, any_held

__all__ = ["emit_reports", "report"]

log = logging.getLogger("zbus")


class _Report(NamedTuple):
    level: int
    message: str
    args: tuple[Any, ...]
    error: BaseException | None


class _EmitLock(Lock):  # type: ignore[misc]  # as `Lock`
    """Held by the thread that emits reports. Nobody waits for it, so handlers may do what they like."""

    forbids_calls = False


_waiting: deque[_Report] = deque()
_emitting = _EmitLock()


def report(message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a warning, or an `error` with its traceback: now, or once this thread holds no lock of zbus."""
    _waiting.append(_Report(logging.ERROR if error else logging.WARNING, message, args, error))
    emit_reports()


def emit_reports() -> None:
    """Log the reports that wait, in order, unless this thread holds a lock or another one is at it."""
    while _waiting and not _emitting.held() and not any_held() and _emitting.run(_emit_one):
        pass


def _emit_one() -> None:
    with suppress(IndexError):  # another thread was faster
        level, message, args, error = _waiting.popleft()
        try:
            log.log(level, message, *args, exc_info=error)
        except Exception:  # of a handler; a `send` or `receive` must not fail for that
            if logging.raiseExceptions and sys.stderr is not None:
                with suppress(OSError):  # as `logging` does it
                    traceback.print_exc()


# In a forked child: the parent emits what waits.
os.register_at_fork(after_in_child=_waiting.clear)
