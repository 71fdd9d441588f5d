"""The ZeroMQ context of a node: created when it is first needed, and ended without leaking its threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Unavailable
from .descriptors import CONTEXT, check_descriptors
from .io_threads import IoThreads
from .locks import Lock
from .resources import check_memory, check_threads
from .threads import new_threads_forbidden, start

__all__ = ["Context", "LazyContext", "use_batch_scheduling"]

Context = zmq.Context[zmq.Socket[bytes]]

_MAX_SOCKETS = 8192
# By default a small frame keeps alive the whole buffer of 8 KiB that it was read into, so a queue of 100-byte
# events that come one by one takes 80 times their size. Copying them costs nothing measurable. pyzmq has no
# name for this option of libzmq 4.3.5.
_ZERO_COPY_RECV = 10
_THREADS = 2  # of a context: one for I/O, one that closes sockets


class LazyContext:
    """A context that is created when it is first needed.

    There is no lock: a signal handler that sends may interrupt `get` at any point in its own thread.
    """

    def __init__(self, create: Callable[[], Context] = zmq.Context) -> None:
        """Prepare to `create` a context."""
        self._create = create
        self._made: list[Context] = []
        self._started = False
        self._ending = Lock()
        self._threads = IoThreads()

    def threads(self) -> IoThreads | None:
        """Return the I/O threads, or `None` if they were not needed yet. It takes no lock."""
        return self._threads if self._started else None

    def get(self) -> Context:
        """Return the context. Any thread may call this."""
        if not self._started and not _threads_forbidden():
            check_memory()
            check_descriptors(CONTEXT)
        if not self._made:
            made = self._create()
            made.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
            with suppress(zmq.ZMQError):  # another version may not know it
                made.set(_ZERO_COPY_RECV, 0)
            made.set(zmq.THREAD_NAME_PREFIX, self._threads.prefix)
            self._made.append(
                made
            )  # if two threads do this, the first context counts and the other stays unused
        context = self._made[0]
        if not self._started:  # also after an interrupt in between; doing it twice is fine
            _start(context)
            self._started = True
        return context

    def term(self) -> None:
        """End the context, if there is one. No thread may wait in a socket of it any more.

        This is done in a thread that gets no signals: at the first signal pyzmq would give up, and leak the
        context with everything that it lingers for.
        """
        if not self._made:
            return
        try:
            thread = start("zbus-end", self._end)
        except Unavailable:  # the interpreter is about to end and starts no threads
            self._end()
        else:
            thread.join()

    def _end(self) -> None:
        with self._ending:  # one at a time, in case a close was interrupted and the next one comes
            for context in self._made:
                # Unlike `term`, this does not wait for sockets that an interrupt has left open.
                context.destroy()


def _start(context: Context) -> None:
    """Make libzmq start its I/O thread, with batch scheduling."""

    failed: list[Exception] = []

    def start_io() -> None:
        try:
            check_threads(_THREADS)
            use_batch_scheduling()
            context.socket(zmq.PAIR).close()  # the first socket makes libzmq start its threads
        except Exception as error:
            failed.append(error)

    if _threads_forbidden():  # libzmq blocks the signals itself
        context.socket(zmq.PAIR).close()
        return
    # In a thread of its own: the I/O thread inherits the scheduling and signal mask of its creator.
    start("zbus-start", start_io).join()
    if failed:
        raise failed[0]


def _threads_forbidden() -> bool:
    """Return whether the interpreter is ending and starts no threads any more."""
    return new_threads_forbidden() or sys.is_finalizing()


def use_batch_scheduling() -> None:
    """Make this thread not preempt others when it wakes up.

    That is all that Linux's SCHED_BATCH does; on an idle core the thread still runs at once. On two busy
    cores libzmq's threads then find more to do each time they run, which saves a fifth of the CPU time of an
    event (4.8 to 4.0 µs, measured with a prototype).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
