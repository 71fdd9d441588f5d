"""Locks that no patching replaces, no interrupt leaves locked, and a forked child finds free.

**Patching.** gevent and eventlet replace the locks of `_thread` and `threading` with locks for greenlets.
But zbus waits in C, where no other greenlet of the thread gets a turn. So zbus has its own copy of `_thread`,
which nobody patches, whether zbus was imported before or after.

**Interrupts.** Python may raise KeyboardInterrupt between any two calls: between `lock.acquire()` and the
`try` after it, or at the start of a call in a `finally`. Then the lock would stay locked forever. `with
lock:` has no such gap. To wait for a lock with a timeout, or not at all, use `lock.run(call, timeout)`. It
takes 0.3 µs more than the same by hand (measured), so the hot paths, `Publisher._attempt` and
`Channel.receive`, have it by hand:

    try:
        try:
            ... lock.acquire(timeout=...) ...
        finally:
            lock.release_if_held()
    except BaseException:  # an interrupt may have cut its release short
        lock.release_if_held()
        raise

**Fork.** A lock that another thread of the parent held is freed in the child.
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
    """Return a copy of a module that is written in C, as it is before anybody patches it."""
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
"""How many seconds `acquire` can wait; for more it raises OverflowError."""

_locks: WeakSet[Lock] = WeakSet()


class Lock(_RLock):  # type: ignore[misc]  # final in typeshed, not in CPython
    """A re-entrant lock that knows whether this thread holds it.

    If the thread does, the caller is a signal handler or finalizer that runs in the middle of what took the
    lock. It must not wait for the thread that it interrupts.

    Attributes:
        forbids_calls: whether its holder must not call users' code.
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
        """Call something under the lock, unless another thread holds that for longer than `timeout` seconds.

        No interrupt leaves it locked. If this thread holds it already, the call is made at once.

        Returns:
            Whether the call was made.
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
    """Return whether this thread holds any lock of zbus. Slow: call it seldom."""
    while True:
        try:
            return any(lock.forbids_calls and lock.held() for lock in _locks)
        except RuntimeError:  # another thread has created a lock meanwhile
            continue


def _reinit_in_child() -> None:
    """Free, in a forked child, every lock that another thread of the parent held."""
    for lock in _locks:
        if not lock.held():  # else it is about to be released here
            lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_reinit_in_child)
