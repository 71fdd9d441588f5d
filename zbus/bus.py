"""The bus as a process uses it, and its end.

A `Bus` owns one ZeroMQ context, one publisher, one ingress shared by its `drop` channels and one for each
`block` channel. Nothing of ZeroMQ is created before it is needed, so a bus that only sends has no
forwarder and one that never does anything has no threads.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple

import zmq

from .channel import Channel
from .descriptors import check_headroom, raise_limit
from .errors import Canceled, Invalid
from .event import Gap
from .forwarder import new_context
from .ingress import Ingress
from .links import Links
from .members import Member, about_process
from .patterns import Matcher, prefixes
from .policy import SEND, SUBSCRIBE
from .publisher import DEFAULT, Publisher
from .roster import Roster
from .subscription import Subscription
from .timeouts import check_timeout

__all__ = ["Bus"]

_OVERFLOWS = ("drop", "block")
_INGRESS_DESCRIPTORS = 12
_MIN_FRAME_BYTES = 276  # libzmq's handshake needs as much

Policy = Callable[[str, str], bool]
Context = zmq.Context[zmq.Socket[bytes]]

_open: weakref.WeakSet[Bus] = weakref.WeakSet()


class _Seat(NamedTuple):
    """What a bus knows of one of its channels: not the channel itself, so that it can be dropped."""

    channel: weakref.ref[Channel]
    socket: zmq.Socket[bytes]  # so that it is not collected, and closed, together with its channel
    ingress: Ingress
    patterns: tuple[str, str]


class Bus:
    """A place on a bus: sends to and receives from every process that opened the same name.

        with Bus("shop") as bus:
            sub = bus.subscribe("orders.**")
            bus.send("orders", "order.created", "/orders/123", {"total": 99.99})
            evt, ok = sub.channel().receive(timeout=1.0)

    Any thread may use it.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        dir: str | os.PathLike[str] | None = None,
        policy: Policy | None = None,
        capacity: int = 65_536,
        max_event_bytes: int = 16 * 1024 * 1024,
        send_timeout: float | None = 5.0,
        join_timeout: float = 1.0,
        linger: float = 1.0,
    ) -> None:
        """Open the bus `name`; nothing has to be started first.

        Args:
            name: letters, digits, `_`, `-`, `.`, at most 64.
            dir: the root directory of all buses; `$ZBUS_DIR` and its defaults if `None`.
            policy: asked `(action, system)` once per topic sent to and `(action, pattern)` once per
                subscription; a `Policy` or any callable that returns a bool and does not use this bus.
            capacity: events that queue for one channel at most, and for one subscribing process on the
                publisher's side; one frame of `send_many` counts as one. 1 counts as 2.
            max_event_bytes: larger frames are refused on sending, and cut off on receiving; the same
                in every process of the bus.
            send_timeout: seconds that `send` waits for a full `block` subscriber; `None` is for ever.
            join_timeout: seconds that `send` waits for a subscriber that listens but does not answer.
            linger: seconds that `close` takes at most to hand over what was sent.

        Raises:
            Invalid: a malformed name or value, or a directory whose path is too long.
            PermissionDenied: a directory that is not private to this user.
            Unavailable: the file system refused (full, read-only), or too few descriptors.
        """
        self.name = name
        self.capacity = _check_count(capacity, "capacity")
        self._max = _check_count(max_event_bytes, "max_event_bytes")
        self._linger = check_timeout(linger, "linger")
        self._policy = _check_policy(policy)
        join_timeout = check_timeout(join_timeout, "join_timeout")
        check_timeout(send_timeout, "send_timeout")
        raise_limit()
        self._roster = Roster(dir, name)
        self._member = Member(self._roster, about_process())
        self._context: Context | None = None
        self._context_lock = threading.Lock()
        # Re-entrant: garbage collection may close a channel while this thread joins another.
        self._lock = threading.RLock()
        self._shared: Ingress | None = None
        self._seats: dict[int, _Seat] = {}
        self._joining = False
        self._dropped: deque[Channel] = deque()
        self._ends: list[Ingress] = []
        self._closed = ""
        self._finished = False
        self._publisher = Publisher(
            self._roster,
            Links(
                self._roster,
                self._get_context,
                capacity=self.capacity,
                join_timeout=join_timeout,
                gave_up=lambda: self._count("join_timeouts"),
            ),
            admit=lambda system: self._admit(SEND, system, "send events to system"),
            timed_out=lambda: self._count("send_timeouts"),
            max_event_bytes=self._max,
            send_timeout=send_timeout,
        )
        # The publisher's own method in place of the one below, which spells it out: a call less, 100 ns.
        vars(self)["send"] = self._publisher.send
        self._roster.reap()
        _open.add(self)

    def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        overflow: str = "drop",
        capacity: int | None = None,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> Subscription:
        """Return a subscription that gets every event sent, by anybody, after this returns.

        Args:
            system: pattern of systems: segments, `*` for one, `**` for any number, `(a|b)` for either;
                a lone `*` is everything.
            kind: pattern of kinds; `None`, `""` and `"*"` are no filter.
            overflow: when the queue is full, `"drop"` drops and counts the newest events for this
                channel alone, `"block"` makes publishers wait.
            capacity: of this channel, in events; the bus's own if `None`.
            on_gap: called with each `Gap`, in the receiving thread.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: a malformed pattern or value, or the policy denies it.
            Unavailable: the directory is full or read-only, or too few descriptors.
            Canceled: the bus is closed.
        """
        what = Matcher(system, "system pattern")
        which = Matcher(kind, "kind pattern") if kind not in (None, "", "*") else None
        if overflow not in _OVERFLOWS:
            raise Invalid(f"overflow {overflow!r} is not one of 'drop', 'block'", value=overflow)
        room = self.capacity if capacity is None else _check_count(capacity, "capacity")
        if on_gap is not None and not callable(on_gap):
            raise TypeError(f"on_gap must be callable, not {type(on_gap).__name__}")
        self._admit(SUBSCRIBE, system, "subscribe to events from system")
        channel = Channel(what, which, overflow, room, on_gap)
        with self._lock:
            self._check_open()
            self._joining = True
            try:
                self._join(channel, prefixes(what, which), room)
            finally:
                self._joining = False
        self._sweep()
        return Subscription(channel)

    def _join(self, channel: Channel, topics: tuple[bytes, ...], capacity: int) -> None:
        ingress = self._shared if channel.overflow == "drop" else None
        fresh = ingress is None
        if ingress is None:
            check_headroom(_INGRESS_DESCRIPTORS)
            ingress = Ingress(
                self._get_context(),
                self._roster,
                blocking=channel.overflow == "block",
                capacity=self.capacity if channel.overflow == "drop" else capacity,
                max_event_bytes=max(self._max, _MIN_FRAME_BYTES),
            )
        try:
            socket, barrier = ingress.connect(topics, capacity)
            channel._attach(socket, barrier, ingress.wake, self._leave, self._discard, self._count)
            patterns = (channel.system, channel.kind or "*")
            self._seats[id(channel)] = _Seat(weakref.ref(channel), socket, ingress, patterns)
            try:
                ingress.publish(socket, self._describe(ingress))
            except BaseException:
                del self._seats[id(channel)]
                socket.close()
                raise
        except BaseException:
            if fresh:
                ingress.withdraw()
                ingress.close()
            raise
        if fresh:
            self._roster.reap()
        if channel.overflow == "drop":
            self._shared = ingress
        channel._joined(time.monotonic_ns() // 1000)

    def _describe(self, ingress: Ingress) -> dict[str, Any]:
        patterns = [seat.patterns for seat in list(self._seats.values()) if seat.ingress is ingress]
        return {**about_process(), "member": self._member.id, "patterns": patterns}

    def _leave(self, channel: Channel) -> None:
        """Forget a channel whose socket is closed."""
        with self._lock:
            seat = self._seats.pop(id(channel), None)
            if seat is None:
                return
            if self._closed:
                self._finish()
            elif seat.ingress is not self._shared:
                seat.ingress.withdraw()
                seat.ingress.close()
            elif not self._joining:  # else it is garbage collected amid a join, which will describe all
                seat.ingress.describe(self._describe(seat.ingress))
        self._sweep()

    def _discard(self, channel: Channel) -> None:
        """Close a channel that nobody refers to any more, now or as soon as the lock is free.

        Garbage collection runs anywhere, also in a thread that the holder of the lock waits for.
        """
        self._dropped.append(channel)
        self._sweep()

    def _sweep(self) -> None:
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                self._dropped.popleft().close()
            finally:
                self._lock.release()

    def send(
        self, system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
    ) -> None:
        """Send one event to every subscriber on the bus; none is no error.

        Args:
            system, kind, path: non-empty text; system and kind are dot-separated literal names.
            data: any JSON value, `bytes`, or `None` for no data.
            timeout: seconds to wait for a full `block` subscriber; the bus's `send_timeout` if left out.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: an empty or malformed argument, data that JSON cannot carry, too large an event, or
                the policy denies it. Nothing was sent.
            Timeout: a `block` subscriber made no room. Retryable: the event went to nobody.
            Canceled: the bus is closed.
        """
        self._publisher.send(system, kind, path, data, timeout=timeout)

    def send_many(
        self,
        system: str,
        kind: str,
        items: Iterable[tuple[str, Any]],
        *,
        timeout: float | None = DEFAULT,
    ) -> int:
        """Send `(path, data)` pairs as events of one topic, all or none, and return how many.

        They travel as one frame, which makes each three times cheaper than by `send`. Data must be
        JSON; `bytes` go by `send`. Raises as `send` does.
        """
        return self._publisher.send_many(system, kind, items, timeout)

    def close(self) -> None:
        """Leave the bus. Channels end once drained; what was sent is handed over within `linger` seconds."""
        with self._lock:
            if self._finished:
                return
            deadline = time.monotonic() + self._linger
            self._closed = self._closed or f"the bus {self.name!r} is closed: open a new one"
            for ingress in self._all_ingresses():
                ingress.withdraw()
            connections = self._publisher.close(self._closed, deadline)
            if connections is None:
                return  # a signal handler amid a send: the next call, at exit if no earlier, does the rest
            self._ends = [*self._all_ingresses()]
        for seat in list(self._seats.values()):
            if (channel := seat.channel()) is not None:
                channel.close()
        with self._lock:
            self._finish()
        connections.close(deadline)
        _open.discard(self)

    def _all_ingresses(self) -> set[Ingress]:
        return {*(seat.ingress for seat in self._seats.values()), *([self._shared] if self._shared else [])}

    def _finish(self) -> None:
        """Free what is left, once every channel's socket is closed.

        That may be later than `close`: if it was called in a signal handler while this very thread waits in a
        channel, that channel comes here when the handler has returned.
        """
        if self._seats or self._finished:
            return
        self._finished = True
        for ingress in self._ends:
            ingress.close()
        if self._context is not None:
            self._context.term()
        self._member.close()
        self._roster.close()

    @property
    def closed(self) -> bool:
        """Whether the bus was closed, or belongs to the parent of this forked process."""
        return bool(self._closed)

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bus {self.name!r} at {self._roster.path}{', closed' if self._closed else ''}>"

    def _get_context(self) -> Context:
        # Not the bus's lock: a send comes here under its own, which `close` takes under the bus's.
        with self._context_lock:
            if self._context is None:
                self._context = new_context()
            return self._context

    def _check_open(self) -> None:
        if self._closed:
            raise Canceled(self._closed)

    def _admit(self, action: str, resource: str, what: str) -> None:
        if self._policy is not None and not self._policy(action, resource):
            raise Invalid(f"not allowed to {what}: {resource}", action=action, resource=resource)

    def _count(self, counter: str, number: int = 1) -> None:
        if not self._closed:
            self._member.add(counter, number)

    def _disown(self) -> None:
        """In a forked child: the sockets are the parent's, so every use fails at once."""
        self._closed = f"the bus {self.name!r} belongs to the parent process: open a new one after fork"
        self._finished = True  # there is nothing of ours to close
        self._lock = threading.RLock()
        self._publisher.disown(self._closed)
        self._member.disown()
        for seat in self._seats.values():
            if (channel := seat.channel()) is not None:
                channel._disown(self._closed)


def _check_count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not 1 <= value < 2**31:
        raise Invalid(f"{what} is {value}: give a number from 1 to {2**31 - 1}", value=value)
    return value


def _check_policy(policy: Policy | None) -> Policy | None:
    if policy is not None and not callable(policy):
        raise TypeError(f"policy must be callable, not {type(policy).__name__}")
    return policy


@atexit.register
def _close_all() -> None:
    for bus in list(_open):
        bus.close()


def _disown_all() -> None:
    for bus in list(_open):
        bus._disown()
    _open.clear()


os.register_at_fork(after_in_child=_disown_all)
