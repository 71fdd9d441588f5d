"""The bus as a process uses it that waits in threads."""

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
from .sending.publisher import TRY_SECONDS, run_blocking
from .sending.sender import Sender

__all__ = ["Bus", "default"]


class Bus(BusBase[None], Sender[None]):
    """A place on a bus: sends to and receives from every process that opened the same name.

        with Bus("shop") as bus:
            sub = bus.subscribe("orders.**")
            bus.send("orders", "order.created", "/orders/123", {"total": 99.99})
            evt, ok = sub.channel().receive(timeout=1.0)

    Any thread may use it. A bus that nobody refers to any more, nor to a channel of it, closes itself.
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
    ) -> None:
        """Open the bus `name`; nothing has to be started first.

        Args:
            name: letters, digits, `_`, `-`, `.`, at most 64; `$ZBUS_BUS`, else `default`, if `None`.
            dir: the root directory of all buses; `$ZBUS_DIR` and its defaults if `None`.
            policy: asked `(action, system)` once per topic sent to and `(action, pattern)` once per
                subscription; a `Policy` or any callable that returns a bool and does not use this bus.
            capacity: events that queue for one channel at most, and for one subscribing process on the
                publisher's side; one frame of `send_many` counts as one. 1 counts as 2.
            capacity_bytes: bytes of events that queue for one channel, and for one subscribing process on the
                publisher's side: between half as many and twice as many. One event may always be larger.
            max_event_bytes: larger frames are refused on sending, and cut off on receiving; the same
                in every process of the bus.
            send_timeout: seconds that `send` waits for a full `block` subscriber; `None` is for ever.
            join_timeout: seconds that `send` waits for a subscriber that listens but does not answer, and is
                not just slow. What it misses after that is told to it.
            linger: seconds that `close` takes at most to hand over what was sent.

        Raises:
            Invalid: a malformed name or value, or a directory whose path is too long.
            PermissionDenied: a directory that is not private to this user.
            Unavailable: the machine refused: the file system (full, read-only), or a limit of this process
                (descriptors, threads, memory).
        """
        options = BusOptions(
            policy, capacity, capacity_bytes, max_event_bytes, send_timeout, join_timeout, linger
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
        """Return a subscription that gets every event sent, by anybody, after this returns.

        Args:
            system: pattern of systems: segments, `*` for one, `**` for any number, `(a|b)` for either;
                a lone `*` is everything.
            kind: pattern of kinds; `None`, `""` and `"*"` are no filter.
            overflow: when the queue is full, `"drop"` drops and counts the newest events for this
                channel alone, `"block"` makes publishers wait; `"latest"` keeps only the newest event of
                each (system, kind, path).
            capacity: of this channel, in events; the bus's own if `None`.
            capacity_bytes: of this channel, in bytes; the bus's own if `None`.
            on_gap: called with each `Gap`, in the receiving thread.
            type: what `data` is to be: a dataclass, a msgspec Struct, a pydantic model, or another type that
                msgspec knows. Events whose data does not fit are counted, kept and skipped.
            on_error: called with each `Mismatch` of that kind, in the receiving thread.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: a malformed pattern or value, a type that cannot be checked, or the policy denies it.
            Unavailable: the directory is full or read-only, too few descriptors, threads or memory, or too
                many subscriptions (1,000 for each bus).
            Canceled: the bus is closed.
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

        They travel as one frame, which makes each three times cheaper than by `send`.

        Args:
            system, kind: as of `send`.
            items: the events: a path and its data, any JSON value; `bytes` go by `send`.
            timeout: as of `send`.

        Raises:
            TypeError: an argument of the wrong type.
            Invalid: an empty or malformed argument, data that JSON cannot carry, too large a frame, or the
                policy denies it. Nothing was sent.
            Timeout: a `block` subscriber made no room; `details["subscribers"]` tells which. Retryable:
                the events went to nobody.
            Canceled: the bus is closed.
        """
        count, _ = self._publisher.send_many(system, kind, items, timeout)
        return count

    def flush(self, timeout: float | None = DEFAULT) -> None:
        """Wait until the process of every subscriber has taken what this bus has sent so far.

        Then nothing of it is lost however this process ends. Its receiver may still have to read it from its
        queue. A signal handler may call this.

        Args:
            timeout: seconds to wait at most; the bus's `send_timeout` if not given, `None` is for ever.

        Raises:
            Timeout: a full `block` subscriber, say, or a stopped process, has not taken all of it;
                `details["subscribers"]` tells which. Retryable.
            Canceled: the bus is closed.
        """
        for pause in self._node.flushing(timeout):
            sleep(pause)

    def close(self) -> None:
        """Leave the bus. Channels end once drained; what was sent is handed over within `linger` seconds."""
        self._node.close()

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, error_type: object, error: object, trace: TracebackType | None) -> None:
        self.close()


default = DefaultBus(Bus)
"""What the functions of `zbus` use."""
