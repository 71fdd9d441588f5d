"""An ingress: a forwarder that is on the roster, and the way to join it strictly.

Joining is three waits on the *probe*, an XPUB at the forwarder's front that sees every subscription
just as a connected publisher does:

1. the channel's prefixes, then its *barrier*, a topic that exists once: when the probe has read it, the
   prefixes are on their way, in order, to every publisher;
2. the next *sentinel*, which tells publishers which epoch their link has reached. Another socket holds
   it, so that it outlives the channel; it comes second, since another pipe may overtake;
3. the entry with that epoch, and the token.

From then on a publisher that looks at the token knows whether its link has caught up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import zmq

from ..errors import Unavailable
from ..protocol.wire import CONTROL, NOTICE
from ..roster.directory import Entry, Roster, new_id
from ..runtime.locks import TIMEOUT_MAX, Lock
from ..runtime.resources import check_memory
from .capacity import Capacity
from .forwarder import Forwarder
from .notices import AnnouncedBytes, NoticeListener

__all__ = ["Ingress", "sentinel"]

_PROBE_TIMEOUT = 10.0
_UNDO_SECONDS = 1.0


def sentinel(ident: str, epoch: int) -> bytes:
    """Return the topic by which an ingress tells publishers that its `epoch` has reached them."""
    return CONTROL + f"{ident}.{epoch}".encode()


class Ingress:
    """One way into this process: shared by all `drop` channels, or owned by one `block` channel.

    Not thread-safe, but for `wake`: the bus joins one channel at a time.
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
    ) -> None:
        """Start the forwarder; nobody knows of it until the first `publish`.

        `on_notice` is called with what publishers announce, see `NoticeListener`.
        """
        self._context = context
        self._roster = roster
        self._blocking = blocking
        self.id = new_id()
        self.entry = Entry(self.id, 0, "block" if blocking else "drop")
        self._barriers = 0
        self._withdrawn = False
        self._sentinels: list[int] = []  # subscribed to, the latest last
        # Re-entrant: a garbage-collected channel may close while this thread joins another.
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
        with ExitStack() as undo:  # in reverse, unless all of it can be had
            undo.callback(roster.withdraw, self.id)
            undo.callback(self._forwarder.close)
            self._probe = self._socket(zmq.XPUB)
            undo.callback(self._probe.close)
            self._probe.connect(self._forwarder.front)
            self._listener = NoticeListener(context, self.id, self._forwarder.back, partial(on_notice, self))
            undo.callback(self._end_listener, _UNDO_SECONDS)
            self._await(NOTICE)
            undo.pop_all()

    def _socket(self, socket_type: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(socket_type)
        socket.linger = 0
        socket.sndhwm = 0  # subscriptions beyond 1000 would be cut, silently
        return socket

    def connect(
        self, prefixes: tuple[bytes, ...], capacity: int, capacity_bytes: int
    ) -> tuple[Capacity, bytes]:
        """Return the queue of a SUB whose subscriptions have passed the forwarder, and its barrier topic.

        At most `capacity` frames queue for it, and about `capacity_bytes` bytes.
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
        """Move to the next epoch, which includes `socket`; return the time until which nobody knew of it."""
        if self.entry.epoch and not self._roster.has_socket(self.id):
            raise Unavailable(
                f"this process's socket was removed from {self._roster.path}, so nobody finds it any more:"
                " close the bus and open another"
            )
        # Never one that was tried before: its sentinel may have been shown already.
        self._sentinels.append((self._sentinels or [0])[-1] + 1)
        entry = self.entry._replace(epoch=self._sentinels[-1])
        if self._blocking:
            # The only channel holds its own sentinel: a second subscriber could fill up and hold it.
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
        """Return whether others find this ingress, or are not to: not yet, or no more."""
        return (
            not self.entry.epoch
            or self._withdrawn
            or (self._roster.has_entry(self.entry) and self._roster.has_socket(self.id))
        )

    def restore(self, info: dict[str, Any], timeout: float) -> bool:
        """Be found again, with the same id and epoch, though somebody removed the socket or the entry.

        Returns:
            Whether it is, within `timeout` seconds. A full `block` channel holds the forwarder for longer.

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
            if self._withdrawn:  # meanwhile, by a thread that closes it: what was shown again goes
                self.withdraw()
        return True

    @property
    def in_use_here(self) -> bool:
        """Whether this thread is amid a use of it: then this is a signal handler."""
        return self._lock.held()

    def describe(self, info: dict[str, Any]) -> None:
        """Rewrite what the entry says about itself."""
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
        """Send a channel that closes its own barrier, which ends a wait in `recv`. For any thread."""
        if self._blocking:
            # First: a signal handler that sends would wait for what the thread it interrupts is to withdraw.
            self.withdraw()
        with self._lock, suppress(zmq.ZMQError):
            self._probe.send(barrier, zmq.NOBLOCK)

    def withdraw(self) -> None:
        """Leave the roster: publishers that look at it next let go."""
        self._withdrawn = True
        with suppress(OSError):
            self._roster.withdraw(self.id)

    def close(self) -> None:
        """Stop; every channel must be closed before, or the forwarder may be held by a full one."""
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
