"""A publisher's links: one connection to every ingress on the bus, kept in line with the roster.

When the token moved, the roster is listed, new ingresses are connected and vanished ones let go, and
then the sender waits until each link has *shown* the sentinel of its listed epoch: from there on the
subscriptions of that epoch are in force on this side. Every sentinel is recorded, awaited or not, and
the roster is read again whenever the token moves meanwhile, so a peer that leaves costs no time-out.

There is a *lane*, one XPUB, for each overflow policy in use, because `XPUB_NODROP` holds all links of
a socket for one full one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress

import zmq

from .handover import Connections
from .roster import Entry, Roster, clock
from .timeouts import milliseconds
from .wire import CONTROL

__all__ = ["NEVER", "Full", "Links"]

log = logging.getLogger("zbus")

NEVER = -1
"""No token has this value."""

# While links are awaited, how often the roster and the liveness of those links are looked at.
_LOOK_MS = 5
_BLOCKING_LANE_EVENTS = 1000
_RECONNECT_MAX_MS = 5000
# As entries are named. Peers may subscribe to anything, and `int` raises at more than 4,300 digits.
_SENTINEL = re.compile(rb"([0-9a-f]{8,32})\.([0-9]{1,18})")


class Full(Exception):
    """This try to send reached nobody; a later one may. The text says who is in the way."""


class Link:
    """The connection to one ingress: the epoch it should reach, and the one it has shown."""

    __slots__ = ("endpoint", "entry", "given_up", "lane", "shown", "since")

    def __init__(self, entry: Entry, lane: Lane, endpoint: str) -> None:
        self.entry = entry
        self.lane = lane
        self.endpoint = endpoint
        self.shown = 0
        self.expect(entry)

    def expect(self, entry: Entry) -> None:
        """Begin to wait for the epoch of `entry`."""
        self.entry = entry
        self.since = time.monotonic()
        self.given_up = False

    @property
    def awaited(self) -> bool:
        """Whether a send has to wait for this link."""
        return self.shown < self.entry.epoch and not self.given_up


class Lane:
    """One publishing socket and the number of its links."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, blocking: bool, capacity: int) -> None:
        self.blocking = blocking
        self.links = 0
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_NODROP, int(blocking))
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # no queue for a peer that is not there
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        # A blocking subscriber has a queue of its own; this one only keeps the I/O thread busy.
        self.socket.sndhwm = min(capacity, _BLOCKING_LANE_EVENTS) if blocking else capacity
        # The method beneath the Python wrapper: 190 instead of 550 ns a call (measured).
        self.send: Callable[[bytes], object] = super(zmq.Socket, self.socket).send


class Links:
    """All links of one publisher. Not thread-safe: used under the publisher's lock.

    Attributes:
        hold: sends to the `block` ingresses, or raises `zmq.Again`; `None` while there are none.
        drop: sends to the `drop` ingresses, never waiting; `None` while there are none.
        settled: as of when (see `clock`) everybody who listens is known.
    """

    def __init__(
        self,
        roster: Roster,
        context: Callable[[], zmq.Context[zmq.Socket[bytes]]],
        *,
        capacity: int,
        join_timeout: float,
        gave_up: Callable[[], None],
    ) -> None:
        """Prepare; nothing is connected before the first `settle`.

        `gave_up` is called when a link did not show its epoch within `join_timeout` seconds.
        """
        self._roster = roster
        self._context = context
        self._capacity = capacity
        self._join_timeout = join_timeout
        self._gave_up = gave_up
        self._listed = NEVER
        self.settled = 0
        self._links: dict[str, Link] = {}
        self._lanes: dict[str, Lane] = {}
        self._patience_ms = 0
        self.hold: Callable[[bytes], object] | None = None
        self.drop: Callable[[bytes], object] | None = None

    def settle(self, patience: float) -> int:
        """Return the token as of which every ingress on the roster is linked and up to date.

        Raises:
            Full: one is not after `patience` seconds.
        """
        until = time.monotonic() + patience
        while True:
            now = clock()
            token = self._roster.token[0]
            if token != self._listed:
                self._list()
                self._listed = token
            self._read()
            waiting = [link for link in self._links.values() if link.awaited and not self._give_up(link)]
            if not waiting:
                if self._roster.token[0] == token:
                    self.settled = now
                    return token
                continue
            self._bury_dead(waiting)
            if time.monotonic() >= until:
                raise Full(f"subscriber {waiting[0].entry.id} has not finished joining")
            self._wait()

    def wait_at_most(self, seconds: float) -> None:
        """Let `hold` wait this long for room before it raises."""
        self._patience_ms = milliseconds(seconds)
        for lane in self._lanes.values():
            lane.socket.sndtimeo = self._patience_ms

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets that hear from peers what a sender may wait for."""
        return [lane.socket for lane in self._lanes.values()]

    def idents(self) -> list[str]:
        """Return the ids of the ingresses that are connected. Any thread may call this, without the lock."""
        return [*self._links]

    def hear(self) -> None:
        """Take in at once what peers have made known, such as room.

        A send looks for it every millisecond only, and until then the sockets' descriptors stay readable.
        """
        for socket in self.sockets():
            socket.getsockopt(zmq.EVENTS)

    def _list(self) -> None:
        entries = self._roster.entries()
        for ident in [ident for ident in self._links if ident not in entries]:
            self._unlink(self._links.pop(ident))
        dead = []
        for ident, entry in entries.items():
            link = self._links.get(ident)
            if link is not None:
                if entry.epoch > link.entry.epoch:
                    link.expect(entry)
            elif self._roster.alive(ident):
                self._link(entry)
            else:
                dead.append(ident)
        self._roster.bury(dead)
        sends = {name: lane.send if lane.links else None for name, lane in self._lanes.items()}
        self.hold = sends.get("block")
        self.drop = sends.get("drop")

    def _link(self, entry: Entry) -> None:
        lane = self._lanes.get(entry.overflow)
        if lane is None:
            blocking = entry.overflow == "block"
            lane = Lane(self._context(), blocking=blocking, capacity=self._capacity)
            lane.socket.sndtimeo = self._patience_ms
            self._lanes[entry.overflow] = lane
        endpoint = f"ipc://{self._roster.socket_path(entry.id)}"
        lane.socket.connect(endpoint)
        lane.links += 1
        self._links[entry.id] = Link(entry, lane, endpoint)

    def _unlink(self, link: Link) -> None:
        link.lane.links -= 1
        with suppress(zmq.ZMQError):  # ENOENT if libzmq has dropped it already
            link.lane.socket.disconnect(link.endpoint)

    def _read(self) -> None:
        """Take in what peers subscribed to; libzmq has applied it, only the sentinels are for us."""
        for lane in self._lanes.values():
            with suppress(zmq.Again):
                while True:
                    self._note(lane.socket.recv(zmq.NOBLOCK))

    def _note(self, change: bytes) -> None:
        if change[1:2] != CONTROL:
            return
        sentinel = _SENTINEL.fullmatch(change, 2)
        link = self._links.get(sentinel[1].decode()) if sentinel else None
        if sentinel is None or link is None:
            return
        epoch = int(sentinel[2])
        if change[0]:
            link.shown = max(link.shown, epoch)
        elif epoch == link.shown:
            link.shown = 0  # the connection went, not just an older epoch: wait for it to come back

    def _give_up(self, link: Link) -> bool:
        """Stop waiting for a link whose time is over, until its epoch moves. A `block` one counts as full."""
        if link.lane.blocking or time.monotonic() < link.since + self._join_timeout:
            return False
        link.given_up = True
        self._gave_up()
        log.warning(
            "subscriber %s did not finish joining within %g s: sending without it (is it stopped?)",
            link.entry.id,
            self._join_timeout,
        )
        return True

    def _bury_dead(self, links: list[Link]) -> None:
        if dead := [link.entry.id for link in links if not self._roster.alive(link.entry.id)]:
            self._roster.bury(dead)
            self._listed = NEVER  # also if nothing could be removed, and so the token did not move

    def _wait(self) -> None:
        poller = zmq.Poller()
        for lane in self._lanes.values():
            poller.register(lane.socket, zmq.POLLIN)
        poller.poll(_LOOK_MS)

    def close(self, deadline: float) -> Connections:
        """Close the sockets; libzmq still writes what was accepted, until `deadline` (monotonic).

        Returns:
            The connections, to be waited for and closed when the context has ended.
        """
        self.hold = self.drop = None
        connections = Connections(self.idents())
        for lane in self._lanes.values():
            lane.socket.close(linger=milliseconds(max(0.0, deadline - time.monotonic())))
        self._lanes.clear()
        self._links.clear()
        return connections
