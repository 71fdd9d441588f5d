"""The forwarder: where the events for this process come in, whatever its Python threads are doing.

An XSUB bound to a unix socket takes events from every publisher on the bus; an XPUB hands them to the
channels of this process; `zmq.proxy_steerable` moves them, in a C thread that holds no GIL. So a busy
process still accepts connections, drains its socket, and passes subscriptions upstream.
"""

from __future__ import annotations

import os
from contextlib import suppress

import zmq

from ..runtime.context import Context, use_batch_scheduling
from ..runtime.threads import start
from ..runtime.timeouts import milliseconds

__all__ = ["Forwarder"]

# Per connection, on top of the channel's own capacity: enough that the I/O thread seldom waits.
_LINK_EVENTS = 1000
_TERMINATE, _END, _DONE, _FAILED = b"TERMINATE", b"", b"done", b"failed"
# Of connections that wait to be accepted. Who finds it full tries again after ever longer pauses, and 100,
# libzmq's own, are less than a crowd that starts at once. The kernel takes as many as it allows.
_BACKLOG = 4096


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
        self._rebinding = False  # told to listen again, no answer yet
        sockets = _sockets(context, zmq.XSUB, zmq.XPUB, zmq.PAIR, zmq.PAIR)
        publishers, channels, steer, self._control = sockets
        publishers.rcvhwm = min(_LINK_EVENTS, capacity)
        publishers.sndhwm = 0  # else libzmq cuts the subscriptions of a new connection at 1000, silently
        publishers.setsockopt(zmq.MAXMSGSIZE, max_event_bytes)
        publishers.setsockopt(zmq.BACKLOG, _BACKLOG)
        channels.sndhwm = 1  # a channel's queue is this plus its own: see `Capacity`
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
        if not self._rebinding:
            self._control.send(_TERMINATE)
            self._control.send(self._endpoint)
            self._rebinding = True
        while self._control.poll(milliseconds(timeout)):
            if (answer := self._control.recv()) in (_DONE, _FAILED):  # libzmq has one of its own, empty
                self._rebinding = False
                return answer == _DONE
        return False

    def close(self) -> None:
        """Stop forwarding and free the sockets; every channel must be closed before."""
        with suppress(zmq.ZMQError):  # also when it was told before, by a close that was interrupted
            self._control.send(_TERMINATE, zmq.NOBLOCK)
            self._control.send(_END, zmq.NOBLOCK)
        self._thread.join()
        self._control.close()


def _sockets(context: Context, *socket_types: int) -> list[zmq.Socket[bytes]]:
    """Return a new socket of each type, or leave none behind."""
    sockets: list[zmq.Socket[bytes]] = []
    try:
        for socket_type in socket_types:
            sockets.append(context.socket(socket_type))
            sockets[-1].linger = 0
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return sockets


def _forward(*sockets: zmq.Socket[bytes]) -> None:
    """Forward, but for the moments in which the order that follows TERMINATE is done: an address to bind."""
    publishers, channels, steer = sockets
    use_batch_scheduling()
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
