"""Locks that are real, that an interrupt cannot leave locked, and that a forked child finds free.

gevent and eventlet replace what `_thread` and `threading` offer with the likes for greenlets. But zbus waits
in C, where no other greenlet of its thread gets its turn. So it has a copy of `_thread` to itself, which
nobody patches, whether zbus was imported before that or after.

Python may raise KeyboardInterrupt between any two calls, also between `lock.acquire()` and the `try` that
follows it, or at the beginning of what a `finally` calls. Then the lock would stay locked for good.
`with lock:` has no such gap. Where a lock is waited for with a timeout, or not at all, it is
`lock.run(call, timeout)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakSet

__all__ = ["TIMEOUT_MAX", "Lock", "any_held", "native", "unpatched"]


def unpatched(name: str) -> ModuleType:
    """Return a copy of a module written in C as it is before anybody patches it."""
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)  # `sys.modules` keeps the other one
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import _thread as native
    from threading import _RLock
else:
    native = unpatched("_thread")
    _RLock = native.RLock

TIMEOUT_MAX: float = native.TIMEOUT_MAX
"""How many seconds `acquire` can wait; to more it says OverflowError."""

_locks: WeakSet[Lock] = WeakSet()


class Lock(_RLock):  # type: ignore[misc]  # final in typeshed, not in CPython
    """A lock that knows whether this very thread holds it, further down: then this is a signal handler.

    It is re-entrant, since a handler, or a finalizer, must not wait for the thread that it interrupts.

    Attributes:
        forbids_calls: whether who holds it must not call code that is not zbus's.
    """

    forbids_calls = True

    def __init__(self) -> None:
        super().__init__()
        _locks.add(self)

    def held(self) -> bool:
        """Return whether this thread holds the lock."""
        owned: bool = self._is_owned()  # type: ignore[attr-defined]
        return owned

    def release_if_held(self) -> None:
        """Release the lock if this thread holds it."""
        if self.held():
            self.release()

    def run(self, call: Callable[[], object], timeout: float = 0) -> bool:
        """Call something under the lock, unless that is not to be had within `timeout` seconds.

        No interrupt leaves it locked. If this thread holds it already, the call is made at once.

        Returns:
            Whether it was called.
        """
        if self.held():  # so whoever took it releases it
            call()
            return True
        try:
            try:
                if taken := self.acquire(timeout=timeout):
                    call()
                return taken
            finally:
                self.release_if_held()
        except BaseException:  # the release may have been cut short
            self.release_if_held()
            raise


def any_held() -> bool:
    """Return whether this thread holds any lock of zbus. Takes a while: for what happens seldom."""
    while True:
        try:
            return any(lock.forbids_calls and lock.held() for lock in _locks)
        except RuntimeError:  # another thread has made a lock meanwhile
            continue


def _reinit_in_child() -> None:
    """Free, in a forked child, every lock that another thread of the parent held."""
    for lock in _locks:
        if not lock.held():  # else it is about to be released here
            lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_reinit_in_child)
