"""A publisher's links: one connection to each ingress on the bus, kept up to date with the roster.

When the token has moved, the links are *settled*:

    1. list the roster; connect new ingresses, disconnect those that are gone
    2. wait until each link has shown the sentinel of the epoch that is listed:
       from then on the subscriptions of that epoch are in force on this side
    3. read the token again; if it has moved meanwhile, start over

Sentinels are recorded whether they are awaited or not. A peer that leaves moves the token, so nobody waits
for it until a timeout.

A peer that does not answer is given up in the end (see `join_wait`). It still gets what is sent after its
subscriptions have arrived, and is told how much it missed before that (see `tails`).

There is one *lane*, an XPUB socket, for each overflow policy in use: with `XPUB_NODROP`, one full link blocks
all links of its socket.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..protocol.sentinels import parse_sentinel
from ..roster.directory import Entry, Roster, clock
from ..runtime.context import LazyContext
from ..runtime.io_threads import IoThreads
from ..runtime.process_state import greets
from ..runtime.reports import report
from ..runtime.timeouts import milliseconds
from .blockers import LinkSnapshot, describe_subscriber
from .fillers import Fillers
from .join_wait import JoinTimeouts, Workload
from .linger import PendingConnections
from .sockets import WOULD_BLOCK, Lane, Link

__all__ = ["NEVER", "Full", "Links"]

NEVER = -1
"""No token has this value."""

# How often to check the links that are awaited, and the roster: soon, then after an eighth of the time it has
# taken so far. Only a few at a time: with many processes starting at once, the checks are what takes longest.
_CHECK_SECONDS = (0.005, 0.05)
_CHECK_SHARE = 8
_CHECKED_AT_ONCE = 4


class Full(Exception):
    """The frame was sent to nobody because somebody has not finished joining. A later attempt may succeed."""


class Links:
    """All links of one publisher. Not thread-safe: used under the publisher's lock.

    Attributes:
        block: sends to all `block` ingresses, or raises `zmq.Again`; `None` if there are none.
        drop: sends to all `drop` ingresses, or raises `zmq.Again`; `None` if there are none.
        settled: as of when (see `clock`) all subscribers are known.
        returned: the overflow of joiners that were given up and have answered; `Tails` empties it.
        left_out: whether there are joiners that were given up and have not answered yet.
        joins: how many epochs of linked ingresses have been shown.
        answered_at: when (monotonic) a joiner last answered.
        cpu_short_at: when (monotonic) a joiner, or this process, was last seen to wait for a CPU.
    """

    def __init__(
        self,
        roster: Roster,
        context: LazyContext,
        *,
        capacity: int,
        capacity_bytes: int,
        join_timeout: float,
        send_timeout: float,
        gave_up: Callable[[], None],
    ) -> None:
        """Prepare; nothing is connected before the first `settle`.

        `gave_up` is called when a joiner has not answered within `join_timeout` seconds; with `block`, within
        `send_timeout`.
        """
        self._roster = roster
        self._context = context
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._join_timeouts = JoinTimeouts(join_timeout, send_timeout)
        self._workload = Workload()
        self._gave_up = gave_up
        self._listed = NEVER
        self.settled = 0
        self.returned: set[str] = set()
        self.left_out = False
        self.joins = 0
        self.answered_at = self.cpu_short_at = 0.0
        self._links: dict[str, Link] = {}
        self._awaited: dict[str, Link] = {}
        self._lanes: dict[str, Lane] = {}
        self._timeout_ms = 0
        self._fillers = Fillers()
        self.block: Callable[..., object] | None = None
        self.drop: Callable[..., object] | None = None

    def settle(self, timeout: float) -> int:
        """Return the token as of which each ingress on the roster is linked and up to date, or given up.

        Raises:
            Full: an ingress is neither after `timeout` seconds.
        """
        now = begun = time.monotonic()
        overslept = False
        while True:
            asof = clock()
            token = self._roster.token[0]
            if token != self._listed:
                self._list()
                self._listed = token
            self._read()
            self._check(now, overslept)
            if not self._awaited:
                if self._roster.token[0] == token:
                    self.settled = asof
                    self._update_left_out()
                    self._refresh_senders()
                    return token
                continue
            if now >= begun + timeout:
                raise Full
            pause = min(max(_CHECK_SECONDS[0], (now - begun) / _CHECK_SHARE), _CHECK_SECONDS[1])
            self._wait(pause)
            now, overslept = time.monotonic(), time.monotonic() > now + 2 * pause

    def follow(self) -> memoryview:
        """Return the token to compare with from now on; see `Roster.follow`."""
        return self._roster.follow()

    def wait_at_most(self, seconds: float) -> None:
        """Let `block` wait this long for room before it raises."""
        self._timeout_ms = milliseconds(seconds)
        if (lane := self._lanes.get("block")) is not None:
            lane.socket.sndtimeo = self._timeout_ms

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets by which a sender learns of new room and of joiners' answers."""
        return [lane.socket for lane in self._lanes.values()]

    def idents(self) -> list[str]:
        """Return the ids of the linked ingresses. Any thread may call this, without the lock."""
        return [*self._links]

    def blocking(self) -> set[str]:
        """Return the ids of the ingresses that publishers wait for. Any thread may call this, as `idents`."""
        return {ident for ident, link in [*self._links.items()] if link.lane.blocking}

    def snapshot(self) -> LinkSnapshot:
        """Return what is linked now. Any thread may call this, without the lock."""
        every, awaited = [*self._links.values()], [*self._awaited.values()]
        entries, awaiting = [link.entry for link in every], [link.entry for link in awaited]
        return LinkSnapshot(self._roster.path, entries, awaiting)

    def process_commands(self) -> None:
        """Have libzmq process at once what peers have sent, such as news of room.

        A send does so once a millisecond only, and until then the sockets' descriptors stay readable.
        """
        for socket in self.sockets():
            socket.getsockopt(zmq.EVENTS)

    def await_room(self) -> None:
        """Wait until a peer has sent something, such as news of room, as long as `block` would wait."""
        poll = select.poll()
        for socket in self.sockets():
            poll.register(socket.fileno(), select.POLLIN)
        poll.poll(self._timeout_ms)
        self.process_commands()

    def check_returned(self) -> None:
        """Note which joiners have answered since they were given up, and reconnect links that were cut."""
        self._read()
        for link in self._links.values():
            if link.unread is None or link.unread.unread():
                continue
            if link.was_read:  # at the last check, so by now the peer has passed on what it had read
                self._connect(link)
            link.was_read = not link.was_read
        self._update_left_out()
        self._refresh_senders()

    def threads(self) -> IoThreads | None:
        """Return the I/O threads, or `None` if there are none yet."""
        return self._context.threads()

    def asleep(self) -> tuple[int, ...] | None:
        """Return how often the I/O threads have fallen asleep, if they sleep now; see `IoThreads`."""
        return () if (threads := self.threads()) is None else threads.asleep()

    def stopped(self, ident: str) -> bool:
        """Return whether the process at the other end of a link is stopped."""
        wait = self._links[ident].wait
        wait.check_peer()
        return wait.stopped

    def lossy(self) -> set[str]:
        """Return the ids of the ingresses that are connected by the `drop` lane."""
        return {ident for ident, link in self._links.items() if not (link.lane.blocking or link.unread)}

    def drop_anyway(self, frame: bytes) -> None:
        """Send a frame to those `drop` ingresses that have room."""
        self._lanes["drop"].send_lossy(frame)

    def dropping(self) -> set[str]:
        """Return the ids of the connected ingresses that a publisher drops frames for."""
        return {ident for ident in self.lossy() if ident not in self._awaited}

    def disconnect(self, ident: str) -> None:
        """Free what waits for a subscriber that reads nothing. `check_returned` connects it again later."""
        link = self._links[ident]
        link.unread = PendingConnections([ident])
        link.missed = max(link.missed, link.entry.epoch)
        link.shown = 0
        self._unlink(link)
        self._update_left_out()
        self._listed = NEVER
        who = describe_subscriber(self._roster.path, link.entry)
        report("subscriber %s takes nothing, and capacity_bytes is used up: what it misses is counted", who)

    def _update_left_out(self) -> None:
        self.left_out = any(link.missed for link in self._links.values())

    def _list(self) -> None:
        entries = self._roster.entries()
        generation = self._roster.generation
        for ident, known in [*self._links.items()]:
            if ident in entries:
                known.generation = generation
            elif known.generation == generation or not known.shown:
                self._awaited.pop(ident, None)
                self._forget(self._links.pop(ident))
            # Otherwise others have recreated the directory, and this one is not listed in the new one yet.
        dead = []
        for ident, entry in entries.items():
            link = self._links.get(ident)
            if link is not None:
                if entry.epoch > link.entry.epoch:
                    self._expect(link, entry)
            elif self._roster.alive(ident):
                self._link(entry)
            else:
                dead.append(ident)
        self._roster.remove_dead(dead)

    def _refresh_senders(self) -> None:
        sends = {name: lane.send if lane.links else None for name, lane in self._lanes.items()}
        self.block = sends.get("block")
        self.drop = sends.get("drop")
        self._fillers.update(self._links.values())

    def pads(self, size: int) -> bool:
        """Return whether fillers must follow a frame of `size` bytes; see `pad`."""
        return self.block is not None and self._lanes["block"].pads(size) > 0

    def pad(self, size: int, system: str, kind: str) -> None:
        """Make the frame that was just sent take places in `block` queues in proportion to its size."""
        if self.pads(size):
            self._lanes["block"].pad(size, self._fillers.of(system, kind))

    def _link(self, entry: Entry) -> None:
        lane = self._lanes.get(entry.overflow)
        if lane is None:
            blocking = entry.overflow == "block"
            lane = Lane(self._context.get(), blocking, self._capacity, self._capacity_bytes)
            lane.socket.sndtimeo = self._timeout_ms if blocking else 0
            self._lanes[entry.overflow] = lane
        link = self._links[entry.id] = Link(entry, lane, str(self._roster.socket_path(entry.id)))
        self._await(link)
        self._connect(link)
        link.generation = self._roster.generation

    def _connect(self, link: Link) -> None:
        if link.unread is not None:
            link.unread.close()
            link.unread = None
        link.lane.socket.connect(link.endpoint)  # type: ignore[arg-type]
        link.lane.links += 1

    def _expect(self, link: Link, entry: Entry) -> None:
        """Wait for the epoch of `entry` from now on, unless it was shown already."""
        link.expect(entry)
        self._await(link)

    def _await(self, link: Link) -> None:
        if link.shown < link.entry.epoch and link.unread is None:
            self._awaited[link.entry.id] = link

    def _unlink(self, link: Link) -> None:
        link.lane.links -= 1
        with suppress(zmq.ZMQError):  # ENOENT: libzmq has dropped it already
            link.lane.socket.disconnect(link.endpoint)

    def _forget(self, link: Link) -> None:
        if link.unread is None:
            self._unlink(link)
        else:
            link.unread.close()

    def _read(self) -> None:
        """Read what peers have subscribed to. libzmq has applied it; only the sentinels are for zbus."""
        for lane in self._lanes.values():
            with suppress(*WOULD_BLOCK):
                while True:
                    self._note(lane.socket.recv(zmq.NOBLOCK))

    def _note(self, change: bytes) -> None:
        ident, epoch = parse_sentinel(change[1:]) or ("", 0)
        link = self._links.get(ident)
        if link is None:
            return
        if change[0]:
            self.joins += epoch > link.shown
            link.shown = max(link.shown, epoch)
            if link.shown >= link.entry.epoch:
                self._awaited.pop(link.entry.id, None)
            self.answered_at = time.monotonic()
            if link.missed:
                self.returned.add(link.entry.overflow)
                link.missed = link.missed if link.missed > link.shown else 0
        elif epoch == link.shown:
            link.shown = 0  # not an older epoch's: the connection has ended; wait for the next one
            self._expect(link, link.entry)

    def _check(self, now: float, overslept: bool) -> None:
        """Check some of the links that are awaited: remove the dead, give up those whose time is over.

        A `block` ingress is not given up while its process is
        stopped or its socket still greets: when it is full, its forwarder passes on no subscriptions either,
        and then the send itself times out and names it.
        """
        due = [link for link in self._awaited.values() if link.wait.due <= now]
        if not due:
            return
        if self._workload.check(overslept):
            self.cpu_short_at = now
        for link in sorted(due, key=lambda link: link.wait.due)[:_CHECKED_AT_ONCE]:
            if not self._roster.alive(link.entry.id):
                self._roster.remove_dead([link.entry.id])
                self._listed = NEVER  # even if nothing could be removed, so that the token did not move
                continue
            timeout = self._join_timeouts.seconds(now, blocking=link.lane.blocking)
            if link.wait.is_over(now, timeout, self._workload):
                if link.lane.blocking and (link.wait.stopped or greets(link.path)):
                    link.wait.restart(now)
                    continue
                self._give_up(link, now)
                self._join_timeouts.use_up(now)
            elif link.wait.cpu_short:
                self.cpu_short_at = now

    def _give_up(self, link: Link, now: float) -> None:
        """Stop waiting for a link until its epoch moves."""
        del self._awaited[link.entry.id]
        link.missed = max(link.missed, link.entry.epoch)
        self._gave_up()
        report(
            "subscriber %s did not finish joining within %.3g s: sends no longer wait for it",
            describe_subscriber(self._roster.path, link.entry),
            link.wait.elapsed(now),
        )

    def _wait(self, seconds: float) -> None:
        poller = zmq.Poller()
        for lane in self._lanes.values():
            poller.register(lane.socket, zmq.POLLIN)
        poller.poll(milliseconds(seconds))

    def close(self, deadline: float) -> PendingConnections:
        """Close the sockets; libzmq goes on writing what was accepted until `deadline` (monotonic).

        Returns:
            The connections. Wait for them and close them once the context has ended.
        """
        self.block = self.drop = None
        # Nothing was sent to who never showed a sentinel, and who never reads would hold up the end.
        connections = PendingConnections(
            ident for ident, link in self._links.items() if link.shown or link.unread is not None
        )
        for link in self._links.values():
            if link.unread is not None:
                link.unread.close()
        for lane in self._lanes.values():
            lane.socket.close(linger=milliseconds(max(0.0, deadline - time.monotonic())))
        self._lanes.clear()
        self._links.clear()
        self._awaited.clear()
        return connections
