"""`Bus` for programs that wait in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Unpack, overload

from .channel import Channel, Subscription
from .event import Gap, Mismatch, T
from .node.bus_base import BusBase
from .node.default_bus import DefaultBus
from .node.node import Node
from .options import (
    CAPACITY,
    CAPACITY_BYTES,
    DEFAULT,
    JOIN_TIMEOUT,
    LINGER,
    MAX_EVENT_BYTES,
    OVERFLOW,
    SEND_TIMEOUT,
    BusOptions,
    Overflow,
    SubscribeKeywords,
    SubscriptionOptions,
)
from .runtime.threads import sleep
from .sending.attempts import TRY_SECONDS, run_blocking
from .sending.sender import Sender

__all__ = ["Bus", "default"]


class Bus(BusBase[None], Sender[None]):
    """One place on a bus: sends to and receives from every process that opened the same name.

        with Bus("shop") as bus:
            sub = bus.subscribe("orders.**")
            bus.send("orders", "order.created", "/orders/123", {"total": 99.99})
            evt, ok = sub.channel().receive(timeout=1.0)

    Any thread may use it. A bus closes itself once nothing refers to it or to any of its channels.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        dir: str | os.PathLike[str] | None = None,
        policy: Callable[[str, str], bool] | None = None,
        capacity: int = CAPACITY,
        capacity_bytes: int = CAPACITY_BYTES,
        max_event_bytes: int = MAX_EVENT_BYTES,
        send_timeout: float | None = SEND_TIMEOUT,
        join_timeout: float = JOIN_TIMEOUT,
        linger: float = LINGER,
        coalesce: float | None = None,
    ) -> None:
        """Open the bus `name`. Nothing has to be started first.

        Args:
            name: at most 64 letters, digits, `_`, `-` and `.`; if `None`, `$ZBUS_BUS`, else `default`.
            dir: the root directory of all buses; if `None`, `$ZBUS_DIR`, else a directory of this user.
            policy: called as `policy(action, system)` once for each topic sent to, and as
                `policy(action, pattern)` once for each subscription; returns whether that is allowed. A
                `Policy`, or any callable that does not use this bus.
            capacity: how many events may queue in a channel, and on the publisher's side for each
                subscribing process. A frame of `send_many` counts as one event; 1 counts as 2.
            capacity_bytes: how many bytes of events may queue there, accurate to a factor of two. A single
                event may always be larger.
            max_event_bytes: the largest frame: `send` refuses larger ones, and a receiver disconnects
                whoever sends one. Use the same value in every process of the bus.
            send_timeout: seconds that `send` waits for a full `block` subscriber; `None` means forever.
            join_timeout: seconds that `send` waits for a new subscriber that does not respond, unless it is
                merely slow. After that `send` goes on, and the subscriber is told what it missed.
            linger: seconds that `close` waits at most for subscribers to take what was sent.
            coalesce: seconds that `send` may hold an event, so that events of one topic that follow each
                other quickly travel as one frame, at a third of the cost; `None` or 0 holds none. An event
                after a pause of a 20th of that goes at once.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: a malformed name or value, or a directory whose path is too long. Not retryable.
            PermissionDenied: a directory that is not private to this user or group. Not retryable.
            Unavailable: the file system refused (full, read-only), or this process has reached a limit
                (descriptors, threads, memory). Retryable once there is room.
        """
        options = BusOptions(
            policy, capacity, capacity_bytes, max_event_bytes, send_timeout, join_timeout, linger, coalesce
        )
        node = Node(name, dir, options, drive=run_blocking, try_seconds=TRY_SECONDS)
        BusBase.__init__(self, node)
        Sender.__init__(self, node.publisher)

    @overload
    def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        type: type[T] | None = None,
        **options: Unpack[SubscribeKeywords],
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self, system: str, kind: str | None = None, *, type: object, **options: Unpack[SubscribeKeywords]
    ) -> Subscription: ...
    def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        overflow: Overflow = OVERFLOW,
        capacity: int | None = None,
        capacity_bytes: int | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        type: Any = None,
        on_error: Callable[[Mismatch], object] | None = None,
    ) -> Subscription:
        """Return a subscription that gets every matching event that any process sends after this returns.

        Args:
            system: a pattern of systems, made of dot-separated segments: `*` matches one segment, `**` any
                number of them, `(a|b)` either; a lone `*` matches everything.
            kind: a pattern of kinds; `None`, `""` and `"*"` match every kind.
            overflow: what happens when the queue is full. `"drop"` drops the newest events, for this channel
                only, and counts them; `"block"` makes publishers wait; `"latest"` keeps only the newest
                event of each (system, kind, path).
            capacity: how many events may queue in this channel; the bus's own `capacity` if `None`.
            capacity_bytes: how many bytes of events may queue; the bus's own `capacity_bytes` if `None`.
            on_gap: called with each `Gap`, in the receiving thread.
            type: the type of `data`: a dataclass, a msgspec Struct, a pydantic model, or another type that
                msgspec supports. Events whose data does not fit are skipped, counted and kept in
                `mismatches`.
            on_error: called with each such event, as a `Mismatch`, in the receiving thread.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: a malformed pattern or value, a type that cannot be checked, or the policy denies it.
                Not retryable.
            Unavailable: the file system refused, too few descriptors, threads or memory, or too many
                subscriptions (1,000 per bus). Retryable once there is room.
            Canceled: the bus is closed. Not retryable.
        """
        options = SubscriptionOptions(overflow, capacity, capacity_bytes, on_gap, type, on_error)
        request = self._node.check_subscription(system, kind, options)
        return Subscription(self._node.join(request, Channel, self))

    def send_many(
        self,
        system: str,
        kind: str,
        items: Iterable[tuple[str, Any]],
        *,
        timeout: float | None = DEFAULT,
    ) -> int:
        """Send `(path, data)` pairs as events of one topic, all or none, and return how many.

        They travel as one frame, so each costs a third of what `send` costs.

        Args:
            system, kind: as for `send`.
            items: pairs of a path and its data, which may be any JSON value. `send` `bytes` one by one.
            timeout: as for `send`.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: an empty or malformed argument, data that JSON cannot carry, too large a frame, or the
                policy denies it. Nothing was sent. Not retryable.
            Timeout: a `block` subscriber made no room; `details["subscribers"]` names it. Retryable:
                no subscriber got any of the events.
            Canceled: the bus is closed. Not retryable.
        """
        count, _ = self._publisher.send_many(system, kind, items, timeout)
        return count

    def flush(self, timeout: float | None = DEFAULT) -> None:
        """Wait until every subscriber's process has taken what this bus has sent so far.

        After that, none of it is lost, however this process ends. Subscribers may still have it in their
        queues. A signal handler may call this.

        Args:
            timeout: seconds to wait at most; the bus's `send_timeout` by default, `None` means forever.

        Raises:
            Timeout: a subscriber has not taken all of it, for example a full `block` subscriber or a stopped
                process; `details["subscribers"]` names it. Retryable.
            Canceled: the bus is closed. Not retryable.
        """
        for pause in self._node.flushing(timeout):
            sleep(pause)

    def close(self) -> None:
        """Leave the bus.

        Channels stay receivable until they are drained, and then end. Waits at most `linger` seconds for
        subscribers to take what was sent. Closing twice is fine.
        """
        self._node.close()

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, error_type: object, error: object, trace: TracebackType | None) -> None:
        self.close()


default = DefaultBus(Bus)
"""The bus that the functions of `zbus` use."""
