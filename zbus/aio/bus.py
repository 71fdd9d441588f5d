"""The bus for programs that run on an asyncio event loop.

Sending takes the same path as in `zbus.bus`, except that its waits are awaited. Joining and closing may
block, so they run in a thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Unpack, overload

from .. import bus as threads
from ..errors import Unavailable
from ..event import Gap, Mismatch, T
from ..node.bus_base import BusBase
from ..node.default_bus import DefaultBus
from ..node.node import Node
from ..options import (
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
from ..runtime.docstrings import details_of
from ..runtime.threads import run_in_thread
from ..sending.attempts import Attempts
from ..sending.sender import Sender
from .channel import TURN_EVENTS, Channel, Subscription
from .waker import Waker, until

__all__ = ["Bus", "default"]

# How often a send that waits for a joiner looks at the bus directory again; `zbus.Bus` does so as often.
_LOOK_SECONDS = 0.005


async def _drive(attempts: Attempts) -> None:
    for sockets in attempts:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wakers = [Waker(socket.fileno()) for socket in sockets]
        try:
            for waker in wakers:
                waker.add(waiter)
            await until(waiter, time.monotonic() + _LOOK_SECONDS, wakers)
        finally:
            for waker in wakers:
                waker.close()


class Bus(BusBase[Coroutine[Any, Any, None]]):
    """A place on a bus, as `zbus.Bus`, for programs that run on an event loop.

        async with Bus("shop") as bus:
            sub = await bus.subscribe("orders.**")
            await bus.send("orders", "order.created", "/orders/123", {"total": 99.99})
            evt, ok = await sub.channel().receive(timeout=1.0)

    Use it on one event loop at a time. It closes itself, as `zbus.Bus` does.
    """

    _turn = TURN_EVENTS

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
        """Open the bus `name`; see `zbus.Bus` for the arguments and errors. It needs no event loop yet."""
        options = BusOptions(
            policy, capacity, capacity_bytes, max_event_bytes, send_timeout, join_timeout, linger, coalesce
        )
        node = Node(name, dir, options, drive=_drive, try_seconds=0.0)
        super().__init__(node)
        self._sender = Sender(node.publisher)

    @overload
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        type: type[T] | None = None,
        **options: Unpack[SubscribeKeywords],
    ) -> Subscription[T]: ...
    @overload
    async def subscribe(
        self, system: str, kind: str | None = None, *, type: object, **options: Unpack[SubscribeKeywords]
    ) -> Subscription: ...
    @details_of(threads.Bus.subscribe)
    async def subscribe(
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

        Joining the bus runs in a thread, so the loop is not blocked. `on_gap` and `on_error` are plain
        functions, called in the task that receives.
        """
        options = SubscriptionOptions(overflow, capacity, capacity_bytes, on_gap, type, on_error)
        request = self._node.check_subscription(system, kind, options)
        return Subscription(await run_in_thread("zbus-join", self._node.join, request, Channel, self))

    @details_of(threads.Bus.send)
    async def send(
        self, system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
    ) -> None:
        """Send one event to every subscriber on the bus.

        If this is cancelled while it waits, no subscriber got the event.
        """
        self._turn -= 1
        if not self._turn:
            await self._take_turn()
        rest = self._sender.send(system, kind, path, data, timeout=timeout)
        if rest is not None:
            await rest

    @details_of(threads.Bus.send_many)
    async def send_many(
        self,
        system: str,
        kind: str,
        items: Iterable[tuple[str, Any]],
        *,
        timeout: float | None = DEFAULT,
    ) -> int:
        """Send `(path, data)` pairs as events of one topic, all or none, and return how many."""
        self._turn -= 1
        if not self._turn:
            await self._take_turn()
        count, rest = self._node.publisher.send_many(system, kind, items, timeout)
        if rest is not None:
            await rest
        return count

    async def _take_turn(self) -> None:
        """Let other tasks of the loop run, after many sends that did not have to wait."""
        self._turn = TURN_EVENTS
        await asyncio.sleep(0)

    @details_of(threads.Bus.flush)
    async def flush(self, timeout: float | None = DEFAULT) -> None:
        """Wait until every subscriber's process has taken what this bus has sent so far.

        After that, none of it is lost, however this process ends.
        """
        for pause in self._node.flushing(timeout):
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Leave the bus.

        Channels stay receivable until they are drained, and then end. Waits at most `linger` seconds for
        subscribers to take what was sent. Closing twice is fine.
        """
        try:
            await run_in_thread("zbus-close", self._node.close)
        except Unavailable:  # no thread can be started: better block the loop than leave the bus open
            self._node.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: TracebackType | None) -> None:
        await self.close()


default = DefaultBus(Bus)
"""What the functions of `zbus.aio` use."""
