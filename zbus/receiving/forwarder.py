"""The forwarder: it receives the events for this process, whatever the Python threads are doing.

    publishers ══ <id>.sock ══ XSUB ── zmq.proxy_steerable ── XPUB ── back ── SUB of each channel
                      front ──┘        thread without the GIL

So a process that is busy in Python still accepts connections, drains its socket, and passes subscriptions
upstream.
"""

from __future__ import annotations

import os
from contextlib import suppress

import zmq

from ..runtime.context import Context, use_batch_scheduling
from ..runtime.threads import start
from ..runtime.timeouts import milliseconds

__all__ = ["Forwarder"]

# For each connection, in addition to the channel's capacity: enough that the I/O thread seldom waits.
_LINK_EVENTS = 1000
_TERMINATE, _END, _DONE, _FAILED = b"TERMINATE", b"", b"done", b"failed"
# How many connections may wait to be accepted. A peer that finds no place tries again after ever longer
# pauses, and libzmq's default of 100 is too few when many processes start at once. The kernel limits the
# number further.
_BACKLOG = 4096


class Forwarder:
    """One XSUB/XPUB pair and the thread between them.

    Attributes:
        front: the inproc address of the publishers' side, for a probe.
        back: the inproc address of the channels' side.
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

        With `blocking`, a full channel stops the forwarder, and so in the end the publishers. Without it,
        what a full channel cannot take is dropped for that channel alone.

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
        publishers.sndhwm = 0  # else libzmq silently cuts the subscriptions of a new connection at 1,000
        publishers.setsockopt(zmq.MAXMSGSIZE, max_event_bytes)
        publishers.setsockopt(zmq.BACKLOG, _BACKLOG)
        channels.sndhwm = 1  # a channel's queue is this plus its own; see `Capacity`
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
        """Listen at the path again after its file was removed; return whether that is done.

        Connections stay. It cannot be done while a full channel stops the forwarder; then a later call
        returns whether it was done meanwhile. The old listener stays open, unused: if libzmq closed it, it
        would remove the *new* file.
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
        """Stop forwarding and free the sockets. Close every channel before."""
        with suppress(zmq.ZMQError):  # a close that was interrupted may have told it before
            self._control.send(_TERMINATE, zmq.NOBLOCK)
            self._control.send(_END, zmq.NOBLOCK)
        self._thread.join()
        self._control.close()


def _sockets(context: Context, *socket_types: int) -> list[zmq.Socket[bytes]]:
    """Return a new socket of each type. If one cannot be had, close the others."""
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
    """Forward until TERMINATE arrives. What follows it is an address to bind, or the order to end."""
    publishers, channels, steer = sockets
    use_batch_scheduling()
    try:
        while True:
            zmq.proxy_steerable(publishers, channels, None, steer)
            while (address := steer.recv()) == _TERMINATE:
                pass  # told twice: by a close that was interrupted, and by the next
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
