"""An ingress: a forwarder that is listed in the bus directory, and how a channel joins it.

A join must not return before every publisher will send to the channel. ZeroMQ does not tell when a
subscription has arrived, but one connection keeps the order of what it carries. So the ingress has a *probe*:
an XPUB at the front of its own forwarder, which sees subscriptions as a connected publisher does.

    step                        channel's SUB      marker SUB      probe             publisher
    1 connect   subscribe       prefixes
                subscribe       barrier                            waits for it
                                                                   barrier is here   prefixes are on the way
    2 publish   subscribe                          sentinel n      waits for it
                                                                   sentinel is here  sentinel n follows them
    3           write the entry of epoch n, then the token                           sees the token, reads
    epoch n,
                                                                                     waits for sentinel n

- A *barrier* is a topic that exists once, for one channel. When the probe has read it, the prefixes before it
have
  passed the forwarder.
- A *sentinel* names the ingress and its epoch. A publisher that has read sentinel n has all prefixes of epoch
n.
  Another socket, the marker, holds it, so that it stays when the channel closes. That socket has another
  pipe, which may overtake the channel's. So the sentinel is subscribed only after step 1.
- A `block` channel holds its own sentinel: see `publish`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import zmq

from ..errors import Unavailable
from ..protocol.sentinels import sentinel
from ..protocol.wire import CONTROL, NOTICE, TWIN
from ..roster.directory import Entry, Roster, new_id
from ..runtime.locks import TIMEOUT_MAX, Lock
from ..runtime.resources import check_memory
from .capacity import Capacity
from .forwarder import Forwarder
from .notices import AnnouncedBytes, NoticeListener
from .retained import RetainedMarks
from .source import Source

__all__ = ["Ingress"]

_PROBE_TIMEOUT = 10.0
_UNDO_SECONDS = 1.0


class Ingress:
    """One endpoint of this process, shared by its channels or owned by one `block` channel.

    Not thread-safe, except `wake`: the node joins one channel at a time.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        roster: Roster,
        *,
        blocking: bool,
        capacity: int,
        max_event_bytes: int,
        on_notice: Callable[[Ingress, AnnouncedBytes], float],
        sources: Callable[[Ingress], list[Source]],
    ) -> None:
        """Start the forwarder; no other process finds it until the first `publish`.

        `on_notice` is called with what publishers announce; see `NoticeListener`. `sources` returns those of
        the channels that receive here.

        Raises:
            Unavailable: the socket cannot be bound, or there are too few descriptors, threads or memory.
        """
        self._context = context
        self._roster = roster
        self._blocking = blocking
        self.id = new_id()
        self.entry = Entry(self.id, 0, "block" if blocking else "drop")
        self._barriers = 0
        self._withdrawn = False
        self._sentinels: list[int] = []  # subscribed to, the latest last
        # Re-entrant: garbage collection may close a channel while this thread joins another.
        self._lock = Lock()
        check_memory()
        scratch = roster.scratch_path(self.id)
        try:
            self._forwarder = Forwarder(
                context,
                self.id,
                str(scratch),
                blocking=blocking,
                capacity=capacity,
                max_event_bytes=max_event_bytes,
            )
        except zmq.ZMQError as error:
            raise Unavailable(
                f"cannot listen in {roster.path}: {error.strerror}", retryable=True, errno=error.errno
            ) from error
        self._marker: zmq.Socket[bytes] | None = None
        self.marks = RetainedMarks(partial(sources, self), self._send_again)
        with ExitStack() as undo:  # in reverse order, if something cannot be had
            undo.callback(roster.withdraw, self.id)
            undo.callback(self._forwarder.close)
            self._probe = self._socket(zmq.XPUB)
            undo.callback(self._probe.close)
            self._probe.connect(self._forwarder.front)
            self._listener = NoticeListener(
                context,
                self.id,
                self._forwarder.back,
                partial(on_notice, self),
                None if blocking else self.marks.keep,
            )
            undo.callback(self._end_listener, _UNDO_SECONDS)
            self._await(NOTICE if blocking else TWIN)
            undo.pop_all()

    def _socket(self, socket_type: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(socket_type)
        socket.linger = 0
        socket.sndhwm = 0  # else libzmq silently drops subscriptions beyond 1,000
        return socket

    def connect(
        self, prefixes: tuple[bytes, ...], capacity: int, capacity_bytes: int
    ) -> tuple[Capacity, bytes]:
        """Connect a SUB, and return it with its bounds once its subscriptions have passed the forwarder.

        This is step 1 above. At most `capacity` frames queue, and about `capacity_bytes` bytes.

        Returns:
            The bounds, which have the socket, and the barrier topic of the channel.
        """
        socket = self._socket(zmq.SUB)
        queued = Capacity(socket, self._forwarder.back, capacity, capacity_bytes, blocking=self._blocking)
        self._barriers += 1
        barrier = CONTROL + f"{self.id}/{self._barriers}".encode()
        try:
            queued.open()
            for prefix in (*prefixes, barrier):
                socket.setsockopt(zmq.SUBSCRIBE, prefix)
            self._await(barrier)
        except BaseException:
            socket.close()
            raise
        return queued, barrier

    def publish(self, socket: zmq.Socket[bytes], info: dict[str, Any]) -> int:
        """Announce the next epoch, which includes `socket`: steps 2 and 3 above.

        Returns:
            When nobody could know of it yet, in microseconds of CLOCK_MONOTONIC; see `loss`.
        """
        if self.entry.epoch and not self._roster.has_socket(self.id):
            raise Unavailable(
                f"this process's socket was removed from {self._roster.path}, so nobody finds it any more:"
                " close the bus and open another"
            )
        # Never an epoch that was tried before: publishers may have seen its sentinel.
        self._sentinels.append((self._sentinels or [0])[-1] + 1)
        entry = self.entry._replace(epoch=self._sentinels[-1])
        if self._blocking:
            # The only channel holds its own sentinel. A second SUB could fill up and stop the forwarder.
            self._marker = socket
        elif self._marker is None:
            self._marker = self._socket(zmq.SUB)
            self._marker.rcvhwm = 1  # nobody reads it
            self._marker.connect(self._forwarder.back)
        self._marker.setsockopt(zmq.SUBSCRIBE, sentinel(self.id, entry.epoch))
        self._await(sentinel(self.id, entry.epoch))
        if not self.entry.epoch:
            self._roster.show_socket(self.id)
        announced_at = self._roster.announce(entry, info, self.entry)
        self.entry = entry
        for epoch in self._sentinels[:-1]:
            self._marker.setsockopt(zmq.UNSUBSCRIBE, sentinel(self.id, epoch))
        del self._sentinels[:-1]
        return announced_at

    def listed(self) -> bool:
        """Return whether all is as it should be: others find it, or it is not published or was withdrawn."""
        return (
            not self.entry.epoch
            or self._withdrawn
            or (self._roster.has_entry(self.entry) and self._roster.has_socket(self.id))
        )

    def restore(self, info: dict[str, Any], timeout: float) -> bool:
        """Put the socket and the entry back after somebody removed them, with the same id and epoch.

        Returns:
            Whether that was possible within `timeout` seconds. A full `block` channel holds the forwarder up.

        Raises:
            Unavailable: the file system refused.
        """
        try:
            if not self._roster.has_socket(self.id):
                if not self._forwarder.listen_again(timeout):
                    return False
                self._roster.show_socket(self.id)
            self._roster.restore(self.entry, info)
        except Unavailable:
            if not self._withdrawn:
                raise
        finally:
            if self._withdrawn:  # by a thread that closes it meanwhile: remove them again
                self.withdraw()
        return True

    @property
    def in_use_here(self) -> bool:
        """Whether this thread is using it further up the stack. If so, this is a signal handler."""
        return self._lock.held()

    def describe(self, info: dict[str, Any]) -> None:
        """Rewrite the content of the entry, which is for people and tools."""
        self._roster.describe(self.entry, info)

    def _await(self, topic: bytes) -> None:
        deadline = time.monotonic() + _PROBE_TIMEOUT
        with self._lock:
            while (left := deadline - time.monotonic()) > 0:
                if self._probe.poll(int(left * 1000) + 1) and self._probe.recv() == b"\x01" + topic:
                    return
        raise Unavailable(
            f"the subscription took more than {_PROBE_TIMEOUT:g} s in this process: try again", retryable=True
        )

    def wake(self, barrier: bytes) -> None:
        """Send a closing channel its own barrier, which ends a wait in `recv`. Any thread may call this."""
        if self._blocking:
            # First, since a signal handler that sends would wait for this channel, and the thread that it
            # interrupts could never withdraw it.
            self.withdraw()
        with self._lock, suppress(zmq.ZMQError):
            self._probe.send(barrier, zmq.NOBLOCK)

    def _send_again(self, mark: bytes) -> None:
        """Send a mark to the channels, as if it came from its publisher."""
        with suppress(zmq.ZMQError):
            self._lock.run(lambda: self._probe.send(mark, zmq.NOBLOCK))

    def withdraw(self) -> None:
        """Leave the bus directory: publishers disconnect when they look at it next."""
        self._withdrawn = True
        with suppress(OSError):
            self._roster.withdraw(self.id)

    def close(self) -> None:
        """Stop. Close every channel before: a full one could hold the forwarder up."""
        self.marks.close()
        with self._lock:
            if self._marker is not None:
                self._marker.close()
            self._end_listener()
            self._forwarder.close()
            self._probe.close()

    def _end_listener(self, timeout: float = TIMEOUT_MAX) -> None:
        with suppress(zmq.ZMQError):
            self._probe.send(NOTICE, zmq.NOBLOCK)
        self._listener.join(timeout)
