"""Calls under a lock for callers that must not wait for it: finalizers and signal handlers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .locks import Lock

__all__ = ["DeferredCalls"]


class DeferredCalls:
    """Calls to make under a lock: now, or once its holder has released it.

    Garbage collection and signal handlers may run in any thread at any moment, even in one that the holder of
    the lock waits for.
    """

    def __init__(self, lock: Lock) -> None:
        """Prepare to call under `lock`."""
        self._lock = lock
        self._calls: deque[Callable[[], object]] = deque()

    def run(self, *calls: Callable[[], object]) -> None:
        """Add calls, and make all that wait if the lock is free. Call this after releasing the lock, too."""
        self._calls.extend(calls)
        while self._calls and not self._lock.held() and self._lock.run(self._run_one):
            pass

    def _run_one(self) -> None:
        try:
            call = self._calls.popleft()
        except IndexError:  # a signal handler or another thread was faster
            return
        call()
