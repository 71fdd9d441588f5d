"""Calls that wait for a lock, where the caller must not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .locks import Lock

__all__ = ["DeferredCalls"]


class DeferredCalls:
    """Calls to be made under a lock: now or, if it is held, when its holder has let go of it.

    Garbage collection and signal handlers run anywhere, also in a thread that the holder waits for.
    """

    def __init__(self, lock: Lock) -> None:
        """Prepare to call under `lock`."""
        self._lock = lock
        self._calls: deque[Callable[[], object]] = deque()

    def run(self, *calls: Callable[[], object]) -> None:
        """Add calls, and make all that wait if that can be. Whoever lets go of the lock runs this, too."""
        self._calls.extend(calls)
        while self._calls and not self._lock.held() and self._lock.run(self._run_one):
            pass

    def _run_one(self) -> None:
        try:
            call = self._calls.popleft()
        except IndexError:  # a signal handler or another thread was faster
            return
        call()
