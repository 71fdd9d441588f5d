"""The forwarder: where the events for this process come in, whatever its Python threads are doing.

An XSUB bound to a unix socket takes events from every publisher on the bus; an XPUB hands them to the
channels of this process; `zmq.proxy_steerable` moves them, in a C thread that holds no GIL. So a busy
process still accepts connections, drains its socket, and passes subscriptions upstream.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import zmq

from .descriptors import CONTEXT, check_descriptors
from .errors import Unavailable
from .iothreads import IoThreads
from .limits import check_memory, check_threads
from .locks import Lock
from .threads import refused, start
from .timeouts import milliseconds

__all__ = ["Context", "Forwarder", "LazyContext"]

Context = zmq.Context[zmq.Socket[bytes]]

# Per connection, on top of the channel's own capacity: enough that the I/O thread seldom waits.
_LINK_EVENTS = 1000
_MAX_SOCKETS = 8192
# By default a small frame keeps the whole buffer of 8 KiB that it was read into, so a queue of events of 100
# bytes that come one by one takes 80 times as much. To copy them costs nothing that could be measured. pyzmq
# has no name for this option, which libzmq 4.3.5 knows.
_ZERO_COPY_RECV = 10
_THREADS = 2  # of a context: one for I/O, one that closes sockets
_TERMINATE, _END, _DONE, _FAILED = b"TERMINATE", b"", b"done", b"failed"
# Of connections that wait to be accepted. Who finds it full tries again after ever longer pauses, and 100,
# libzmq's own, are less than a crowd that starts at once. The kernel takes as many as it allows.
_BACKLOG = 4096


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
        if not self._started and not _none_starts():
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
    """Have libzmq start its I/O thread, in the background, see `_into_background`."""

    failed: list[Exception] = []

    def start_io() -> None:
        try:
            check_threads(_THREADS)
            _into_background()
            context.socket(zmq.PAIR).close()  # libzmq starts its threads with the first socket
        except Exception as error:
            failed.append(error)

    if _none_starts():  # it blocks its signals itself
        context.socket(zmq.PAIR).close()
        return
    # In a thread of its own, since the I/O thread inherits what its creator has.
    start("zbus-start", start_io).join()
    if failed:
        raise failed[0]


def _none_starts() -> bool:
    """Return whether the interpreter is at its end, where there are no new threads any more."""
    return refused() or sys.is_finalizing()


def _into_background() -> None:
    """Let the threads that this one serves run on when it wakes up.

    Linux' SCHED_BATCH says only that: on an idle core it starts at once all the same. On two busy cores the
    threads of libzmq then find more to do each time, which takes a fifth off the CPU time of an event
    (4.8 to 4.0 us, measured with a prototype).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class Forwarder:
    """One XSUB/XPUB pair and the thread between them.

    Attributes:
        front: inproc address of the publishers' side, for a probe.
        back: inproc address of the channels' side.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        path: str,
        *,
        blocking: bool,
        capacity: int,
        max_event_bytes: int,
    ) -> None:
        """Bind the unix socket at `path` and start forwarding.

        `blocking` makes a full channel hold the forwarder, and so in the end the publishers; else what a
        full channel cannot take is dropped for that channel alone.

        Raises:
            zmq.ZMQError: the path cannot be bound.
            Unavailable: no thread can be started.
        """
        self.front = f"inproc://{name}.front"
        self.back = f"inproc://{name}.back"
        self._endpoint = os.fsencode(f"ipc://{path}")
        self._asked = False  # to listen again, and not answered yet
        sockets = _sockets(context, zmq.XSUB, zmq.XPUB, zmq.PAIR, zmq.PAIR)
        publishers, channels, steer, self._control = sockets
        publishers.rcvhwm = min(_LINK_EVENTS, capacity)
        publishers.sndhwm = 0  # else libzmq cuts the subscriptions of a new connection at 1000, silently
        publishers.setsockopt(zmq.MAXMSGSIZE, max_event_bytes)
        publishers.setsockopt(zmq.BACKLOG, _BACKLOG)
        channels.sndhwm = 1  # a channel's queue is this plus its own: see `Room`
        channels.setsockopt(zmq.XPUB_NODROP, int(blocking))
        try:
            publishers.bind(self._endpoint)  # type: ignore[arg-type]
            publishers.bind(self.front)
            channels.bind(self.back)
            steer.bind(f"inproc://{name}.steer")
            self._control.connect(f"inproc://{name}.steer")
            self._thread = start(f"zbus-{name}", _forward, publishers, channels, steer)
        except BaseException:
            for socket in sockets:
                socket.close()
            with suppress(OSError):
                os.unlink(path)
            raise

    def listen_again(self, timeout: float) -> bool:
        """Listen at the path once more, since its file was removed; return whether it does by now.

        Connections stay. While a full channel holds the forwarder it cannot: a later call returns what became
        of it. libzmq would remove the *new* file if the old listener were closed, so that one stays, unused.
        """
        if not self._asked:
            self._control.send(_TERMINATE)
            self._control.send(self._endpoint)
            self._asked = True
        while self._control.poll(milliseconds(timeout)):
            if (answer := self._control.recv()) in (_DONE, _FAILED):  # libzmq has one of its own, empty
                self._asked = False
                return answer == _DONE
        return False

    def close(self) -> None:
        """Stop forwarding and free the sockets; every channel must be closed before."""
        with suppress(zmq.ZMQError):  # also when it was told before, by a close that was interrupted
            self._control.send(_TERMINATE, zmq.NOBLOCK)
            self._control.send(_END, zmq.NOBLOCK)
        self._thread.join()
        self._control.close()


def _sockets(context: Context, *kinds: int) -> list[zmq.Socket[bytes]]:
    """Return a new socket of each kind, or leave none behind."""
    sockets: list[zmq.Socket[bytes]] = []
    try:
        for kind in kinds:
            sockets.append(context.socket(kind))
            sockets[-1].linger = 0
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return sockets


def _forward(*sockets: zmq.Socket[bytes]) -> None:
    """Forward, but for the moments in which the order that follows TERMINATE is done: an address to bind."""
    publishers, channels, steer = sockets
    _into_background()
    try:
        while True:
            zmq.proxy_steerable(publishers, channels, None, steer)
            while (address := steer.recv()) == _TERMINATE:
                pass  # told twice, by a close that was interrupted and the next
            if address == _END:
                break
            steer.send(_bind(publishers, address))
    except zmq.ContextTerminated:
        pass
    finally:
        for socket in sockets:
            socket.close()


def _bind(socket: zmq.Socket[bytes], address: bytes) -> bytes:
    try:
        socket.bind(address)  # type: ignore[arg-type]
    except zmq.ZMQError:  # the directory is gone, for example
        return _FAILED
    return _DONE
