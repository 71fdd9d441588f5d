"""The publishing sockets: a `Lane` is the XPUB of one overflow policy, a `Link` its connection to an ingress.

libzmq's queues are limited by number of frames, and lowering that limit may stop a link for good (see
`receiving.capacity`). So in the queue of a `block` subscriber, which holds few frames, a large frame takes
several places: *fillers* follow it, frames that mean nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import zmq

from ..protocol.wire import LARGE_BYTES
from ..roster.directory import Entry
from .join_wait import JoinWait
from .linger import PendingConnections

__all__ = ["WOULD_BLOCK", "Lane", "Link"]

WOULD_BLOCK = (zmq.Again, ImportError)
"""What a socket raises that has nothing, or no room, now. While modules are torn down, pyzmq fails to import
the exception that it wants to raise."""

_RECONNECT_MAX_MS = 5000
# A `block` subscriber has a queue of its own; the publisher's only has to keep the I/O thread busy.
_BLOCKING_EVENTS = 1000
_MOST_PADS = 250


class Lane:
    """One publishing socket, and how many links it has."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], blocking: bool, capacity: int, capacity_bytes: int
    ) -> None:
        """Make a socket whose queue for each link has this capacity."""
        self.blocking = blocking
        self.links = 0
        self.socket = context.socket(zmq.XPUB)
        # A send that finds no room tells so, and goes to nobody; see also `send_lossy`.
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # no queue for a peer that is not connected
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        events = min(capacity, _BLOCKING_EVENTS) if blocking else capacity
        self.socket.sndhwm = events
        self._share = max(LARGE_BYTES, capacity_bytes // events)
        # The method below pyzmq's Python wrapper: 190 ns a call instead of 550 (measured).
        self.send: Callable[..., object] = super(zmq.Socket, self.socket).send

    def send_lossy(self, frame: bytes) -> None:
        """Send a frame to each link that has room.

        The others get nothing more, without a word, until their peer has read half of what waits.
        """
        self.socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self.send(frame)
        finally:
            self.socket.setsockopt(zmq.XPUB_NODROP, 1)

    def pads(self, size: int) -> int:
        """Return how many places a frame of `size` bytes must take beyond its own."""
        return min(size // self._share, _MOST_PADS) if self.blocking else 0

    def pad(self, size: int, fillers: Iterable[bytes]) -> None:
        """Send each filler that many times. A link that is full, or does not get the frame, may miss some."""
        places = self.pads(size)
        for filler in fillers:
            with suppress(*WOULD_BLOCK):
                for _ in range(places):
                    self.send(filler, zmq.NOBLOCK)


class Link:
    """The connection to one ingress: the epoch that is awaited, and the one it has shown."""

    __slots__ = ("entry", "generation", "lane", "missed", "path", "shown", "unread", "wait", "was_read")

    def __init__(self, entry: Entry, lane: Lane, path: str) -> None:
        self.lane = lane
        self.path = path
        self.shown = 0
        self.generation = 0  # of the roster that listed it last
        self.missed = 0  # the epoch that was given up, until it is shown
        self.was_read = False
        self.unread: PendingConnections | None = None  # of a disconnected link
        self.expect(entry)

    def expect(self, entry: Entry) -> None:
        """Begin to wait for the epoch of `entry`."""
        self.entry = entry
        self.wait = JoinWait(self.path, time.monotonic())

    @property
    def endpoint(self) -> bytes:
        """The ZeroMQ address of the ingress."""
        return os.fsencode(f"ipc://{self.path}")
