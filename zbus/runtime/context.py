"""The ZeroMQ context of a node: made when it is first needed, and ended without leaking what lingers."""

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
# By default a small frame keeps the whole buffer of 8 KiB that it was read into, so a queue of events of 100
# bytes that come one by one takes 80 times as much. To copy them costs nothing that could be measured. pyzmq
# has no name for this option, which libzmq 4.3.5 knows.
_ZERO_COPY_RECV = 10
_THREADS = 2  # of a context: one for I/O, one that closes sockets


class LazyContext:
    """A context that is made when it is first needed.

    Without a lock: a signal handler that sends may meet any moment of a `get` of its own thread.
    """

    def __init__(self, kind: Callable[[], Context] = zmq.Context) -> None:
        """Make a context of that `kind`."""
        self._kind = kind
        self._made: list[Context] = []
        self._started = False
        self._ending = Lock()
        self._threads = IoThreads()

    def threads(self) -> IoThreads | None:
        """Return the I/O threads, if they have been needed. It takes no lock."""
        return self._threads if self._started else None

    def get(self) -> Context:
        """Return the context. Any thread may call this."""
        if not self._started and not _threads_forbidden():
            check_memory()
            check_descriptors(CONTEXT)
        if not self._made:
            made = self._kind()
            made.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
            with suppress(zmq.ZMQError):  # another version may not know it
                made.set(_ZERO_COPY_RECV, 0)
            made.set(zmq.THREAD_NAME_PREFIX, self._threads.prefix)
            self._made.append(made)  # if two threads do so, the first counts, and the other stays unused
        context = self._made[0]
        if not self._started:  # also if an interrupt came in between; twice is fine
            _start(context)
            self._started = True
        return context

    def term(self) -> None:
        """End the context, if there is one; whoever waits in a socket must have left before.

        In a thread that gets no signals, since at the first one pyzmq gives up, and leaks the context with
        all that it lingers for.
        """
        if not self._made:
            return
        try:
            thread = start("zbus-end", self._end)
        except Unavailable:  # at the end of the interpreter there are no new threads any more
            self._end()
        else:
            thread.join()

    def _end(self) -> None:
        with self._ending:  # one after the other, should a close be interrupted and another one follow
            for context in self._made:
                # Unlike `term`, it does not wait for sockets that an interrupt has left open.
                context.destroy()


def _start(context: Context) -> None:
    """Have libzmq start its I/O thread, in the background, see `use_batch_scheduling`."""

    failed: list[Exception] = []

    def start_io() -> None:
        try:
            check_threads(_THREADS)
            use_batch_scheduling()
            context.socket(zmq.PAIR).close()  # libzmq starts its threads with the first socket
        except Exception as error:
            failed.append(error)

    if _threads_forbidden():  # it blocks its signals itself
        context.socket(zmq.PAIR).close()
        return
    # In a thread of its own, since the I/O thread inherits what its creator has.
    start("zbus-start", start_io).join()
    if failed:
        raise failed[0]


def _threads_forbidden() -> bool:
    """Return whether the interpreter is at its end, where there are no new threads any more."""
    return new_threads_forbidden() or sys.is_finalizing()


def use_batch_scheduling() -> None:
    """Let the threads that this one serves run on when it wakes up.

    Linux' SCHED_BATCH says only that: on an idle core it starts at once all the same. On two busy cores the
    threads of libzmq then find more to do each time, which takes a fifth off the CPU time of an event
    (4.8 to 4.0 us, measured with a prototype).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
