"""The threads of zbus: real ones even under gevent or eventlet (see `locks`), which get no signals.

A thread of zbus blocks all signals before it does anything else, so a program that waits in `sigwait` gets
its signals as if zbus were not there. `start` returns once the thread has done so, and never touches the
signal mask of its caller.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from ..errors import Unavailable
from .locks import TIMEOUT_MAX, Lock, native, unpatched

if TYPE_CHECKING:
    from asyncio import Future
    from time import sleep as sleep
else:
    sleep = unpatched("time").sleep

# Python calls exit hooks in reverse order, and that of the executors must come after ours. It is imported now
# because a child forked while another thread imports a module could never import it. A program that is about
# to end takes no more hooks.
with suppress(RuntimeError):
    import concurrent.futures.thread as _executors  # noqa: F401

__all__ = [
    "Condition",
    "Event",
    "Thread",
    "before_thread_joins",
    "forbid_new_threads",
    "new_threads_forbidden",
    "run_in_thread",
    "running",
    "sleep",
    "start",
]

# How often to check that a thread which has not begun is still there.
_BEGIN_SECONDS = 0.1
_SIGNALS = signal.valid_signals()
_running: set[Thread] = set()
# If the main thread has ended before this import, no hook will tell of the exit.
_new_threads_forbidden = bool(getattr(threading, "_SHUTTING_DOWN", False))

Result = TypeVar("Result")


class _Running(Lock):  # type: ignore[misc]  # as `Lock`
    """Held by a thread as long as it runs."""

    forbids_calls = False


def _nothing() -> None:
    pass


class Thread:
    """A thread of zbus. Like a daemon thread, it does not keep the program from ending."""

    def __init__(self, name: str) -> None:
        """Prepare a thread; use `start`."""
        self.name = name
        self._done = _Running()  # held by the thread itself, so that a fork frees it

    def join(self, timeout: float = TIMEOUT_MAX) -> bool:
        """Wait until the thread has ended, `timeout` seconds at most; return whether it has."""
        return self._done.run(_nothing, timeout)

    def __repr__(self) -> str:
        return f"<Thread {self.name}>"


def start(name: str, call: Callable[..., object], *args: Any, wait: bool = True) -> Thread:
    """Start a thread that calls `call`; return once it blocks all signals, or at once without `wait`.

    Raises:
        Unavailable: there are too many threads (retryable), or the interpreter is about to end.
    """
    thread = Thread(name)
    begun = native.allocate_lock()
    begun.acquire()
    begin = _Begin(begun)
    there = ref(begin)
    if _new_threads_forbidden or sys.is_finalizing():  # CPython 3.11 would start one that never runs
        raise Unavailable(f"cannot start thread {name}: the interpreter is about to end")
    try:
        native.start_new_thread(_run, (thread, begin, call, args))
    except (RuntimeError, MemoryError) as error:
        why = error if isinstance(error, RuntimeError) else "out of memory"
        raise Unavailable(f"cannot start thread {name}: {why}", retryable=True) from error
    del begin
    while wait and not begun.acquire(timeout=_BEGIN_SECONDS):
        if there() is None:  # it has ended since, unless it never began
            if not begun.acquire(blocking=False):
                raise Unavailable(f"cannot start thread {name}: out of memory", retryable=True)
            break
    return thread


class _Begin:
    """Tells that a thread has begun. It is freed with a thread that got no memory for its first call."""

    def __init__(self, begun: native.LockType) -> None:
        self._begun = begun

    def __call__(self) -> None:
        self._begun.release()


def _run(
    thread: Thread, begin: Callable[[], None], call: Callable[..., object], args: tuple[Any, ...]
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with thread._done:
        _running.add(thread)
        begin()
        _show(thread.name)
        try:
            call(*args)
        finally:
            _running.discard(thread)
            _hide()


def _show(name: str) -> None:
    """Name this thread in the kernel and in `threading`, where tools such as py-spy look."""
    with suppress(OSError), open(f"/proc/self/task/{native.get_native_id()}/comm", "w") as file:
        file.write(name)
    # A patched `threading` knows only greenlets, and would create a hub for this thread.
    if isinstance(sys.modules["_thread"].start_new_thread, BuiltinFunctionType):
        threading.current_thread().name = name


def _hide() -> None:
    """Remove this thread from `threading`: CPython 3.11 keeps threads that it has not started."""
    if isinstance(sys.modules["_thread"].start_new_thread, BuiltinFunctionType):
        with suppress(KeyError):
            threading.current_thread()._delete()  # type: ignore[attr-defined]


def before_thread_joins(call: Callable[[], object]) -> bool:
    """Call `call` when the main thread ends, before Python and its executors join their threads.

    Returns:
        Whether it is not too late for that.
    """
    register = getattr(threading, "_register_atexit", None)
    try:
        if register is not None:
            register(call)
    except RuntimeError:
        return False
    return True


def forbid_new_threads() -> None:
    """Make `start` fail from now on: the process exits, and nobody would wait for a thread."""
    global _new_threads_forbidden
    _new_threads_forbidden = True


def new_threads_forbidden() -> bool:
    """Return whether `start` fails because the process exits."""
    return _new_threads_forbidden


def running() -> list[Thread]:
    """Return the threads of zbus that run in this process."""
    return [*_running]


async def run_in_thread(name: str, call: Callable[..., Result], *args: Any) -> Result:
    """Call `call` in a thread and await its result. Cancelling leaves the thread running.

    The loop's default executor will not do: it may be full of calls that wait for this one.
    """
    loop = sys.modules["asyncio"].get_running_loop()  # imported already by whoever awaits this
    future: Future[Result] = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = call(*args), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(deliver, *outcome)

    start(name, run)
    return await future


class Condition(Lock):  # type: ignore[misc]  # as above
    """A lock whose holder may wait for what other threads do under it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Callable[[], None]] = []

    def wait_for(self, holds: Callable[[], bool], timeout: float = inf) -> bool:
        """Wait until `holds()` is true, `timeout` seconds at most; return whether it is. Under the lock."""
        deadline = time.monotonic() + timeout
        while not (found := holds()) and (left := deadline - time.monotonic()) > 0:
            gate = native.allocate_lock()
            gate.acquire()
            self._waiting.append(gate.release)
            count = self._release_save()  # type: ignore[attr-defined]
            try:
                gate.acquire(timeout=min(left, TIMEOUT_MAX))
            finally:
                self._acquire_restore(count)  # type: ignore[attr-defined]
        return found

    def notify_all(self) -> None:
        """Wake all waiting threads to check again. Under the lock."""
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()


class Event:
    """A flag that threads can wait for."""

    def __init__(self) -> None:
        self._set = False
        self._changed = Condition()

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._set

    def set(self) -> None:
        """Set the flag, for good, and wake all waiting threads."""
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def wait(self, timeout: float = inf) -> bool:
        """Wait for `set`, `timeout` seconds at most; return whether it was called."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout)


# In a forked child none of them is there.
os.register_at_fork(after_in_child=_running.clear)
