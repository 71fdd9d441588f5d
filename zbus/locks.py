"""Locks that an interrupt cannot leave locked.

Python may raise KeyboardInterrupt between any two calls, also between `lock.acquire()` and the `try` that
follows it, or at the beginning of what a `finally` calls. Then the lock would stay locked for good.
`with lock:` has no such gap. Where a lock is waited for with a time-out, or not at all, it is

    try:
        try:
            ... lock.acquire(timeout=...) ...
        finally:
            lock.let_go()
    except BaseException:  # an interrupt may have cut that short
        lock.let_go()
        raise
"""

from __future__ import annotations

import _thread

__all__ = ["Lock"]


class Lock(_thread.RLock):  # type: ignore[misc]  # final in typeshed, not in CPython
    """A lock that knows whether this very thread holds it, further down: then this is a signal handler."""

    def held(self) -> bool:
        """Return whether this thread holds the lock."""
        owned: bool = self._is_owned()  # type: ignore[attr-defined]
        return owned

    def let_go(self) -> None:
        """Release the lock if this thread holds it."""
        if self.held():
            self.release()
