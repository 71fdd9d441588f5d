"""The bus for asyncio: the same names and meanings with `await`, `async for` and `async with`.

Only the waiting differs. A channel sleeps on its socket's descriptor and drains it without blocking; a send
that has to wait does so between its attempts; what may block otherwise, a join or a close, runs in a thread.
Use a bus on one event loop at a time. The functions of this module use a default bus, as those of `zbus` do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from math import inf
from types import TracebackType
from typing import Any

from .default import Default
from .errors import Unavailable
from .event import Event, Gap, Mismatch
from .handle import BusBase
from .inbox import Inbox, check_channels, expired, first
from .inlet import Ended
from .node import Node, Policy
from .publisher import DEFAULT, Attempts
from .sender import Sender
from .subscription import SubscriptionBase
from .threads import run_in_thread
from .timeouts import check_timeout
from .waker import Waker, until

__all__ = ["Bus", "Channel", "Subscription", "close", "flush", "select", "send", "send_many", "subscribe"]

# A send that waits for a join looks at the roster so often, as its twin does.
_LOOK_SECONDS = 0.005
# What is ready is taken without asking the event loop; so often the others get their turn nevertheless.
_TURN_EVENTS = 256


class Channel(Inbox):
    """The receiving end of a subscription. Several tasks of its loop may share its events."""

    _waker: Waker | None = None
    _turn = _TURN_EVENTS

    def __aiter__(self) -> Channel:
        """Give events until the channel is closed and drained. The fastest way to receive."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Cancelling this loses none."""
        self._turn -= 1
        if not self._turn:
            self._turn = _TURN_EVENTS
            await asyncio.sleep(0)
        # `_wait` for ever, written out: a process that has just woken is slow, so it pays to make fewer
        # coroutines (measured).
        source = self._source
        while True:
            try:
                with source.lock:
                    if (evt := self._now()) is None:
                        waiter = self._waiter()
            except Ended:
                raise StopAsyncIteration from None
            finally:
                if self._news:
                    self._tell()
            if evt is not None:
                return evt
            try:
                await waiter
            except BaseException:
                self._forget(waiter)
                raise

    async def receive(self, timeout: float | None = None) -> tuple[Event, bool] | tuple[None, bool]:
        """Return `(event, True)`, or `(None, False)` once the channel is closed and drained.

        Cancelling this loses no event. Otherwise as `zbus.Channel.receive`.
        """
        patience = check_timeout(timeout)
        try:
            evt = await self._wait(time.monotonic() + patience)
        except TimeoutError:
            raise expired(patience) from None
        return (evt, True) if evt is not None else (None, False)

    async def _wait(self, deadline: float) -> Event | None:
        """Return the next event, `None` once there will be none; raise `TimeoutError` after `deadline`."""
        while True:
            late = deadline != inf and time.monotonic() >= deadline
            # Nothing is awaited between the taking of an event and its return, so nobody can cancel that.
            try:
                with self._source.lock:
                    evt = self._now()
                    if evt is None and not late:
                        waiter = self._waiter()
            except Ended:
                return None
            finally:
                if self._news:
                    self._tell()
            if evt is not None:
                return evt
            if late:
                raise TimeoutError
            assert self._waker is not None
            await until(waiter, deadline, (self._waker,))

    def _waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be something to receive. Under the lock."""
        waker = self._get_waker()
        waiter = waker.loop.create_future()
        waker.add(waiter)
        return waiter

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        if self._waker is not None:
            self._waker.remove(waiter)

    def _get_waker(self) -> Waker:
        """Return the waker of this loop. Under the lock."""
        if self._waker is not None and self._waker.loop is not asyncio.get_running_loop():
            self._waker.close_soon()
            self._waker = None
        if self._waker is None:
            handle = self._source.handle
            self._waker = Waker(handle if isinstance(handle, int) else handle.fileno())
        return self._waker

    async def close(self) -> None:
        """Stop new events. What is buffered stays receivable; waiting tasks wake; twice is fine."""
        self._end()

    def _end(self) -> None:
        super()._end()
        if (waker := self._waker) is not None:
            waker.notify_threadsafe()
            if self._source is self._inlet:  # else the end is still to come by the descriptor
                waker.close_soon()

    def _disown(self, reason: str) -> None:
        super()._disown(reason)
        self._waker = None  # the loop, and what it waits with, are the parent's

    def __del__(self) -> None:
        super().__del__()
        if self._waker is not None:
            self._waker.close_soon()


async def select(
    *channels: Channel, timeout: float | None = None
) -> tuple[Channel, Event, bool] | tuple[Channel, None, bool]:
    """Wait for several channels: return `(channel, event, True)` of the first that has an event.

    Cancelling this loses no event. Otherwise as `zbus.select`.
    """
    check_channels(channels, Channel)
    patience = check_timeout(timeout)
    deadline = time.monotonic() + patience
    each = dict.fromkeys(channels)
    while True:
        late = time.monotonic() >= deadline
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with ExitStack() as held:
            for channel in each:
                held.enter_context(channel._source.lock)
            found = first(each)
            wakers = [] if found or late else [channel._get_waker() for channel in each]
            for waker in wakers:
                waker.add(waiter)
        for channel in each:
            if channel._news:
                channel._tell()
        if found is not None:
            return found
        if late:
            raise expired(patience)
        await until(waiter, deadline, wakers)


class Subscription(SubscriptionBase[Channel]):
    """A subscription: a channel of events until it is closed. For `async with` and `async for`."""

    async def close(self) -> None:
        """Stop new events; what is buffered stays receivable. Closing twice is fine."""
        await self._channel.close()

    def __aiter__(self) -> Channel:
        return self._channel

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        await self.close()


async def _pursue(attempts: Attempts) -> None:
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
    """

    _turn = _TURN_EVENTS

    def __init__(
        self,
        name: str | None = None,
        *,
        dir: str | os.PathLike[str] | None = None,
        policy: Policy | None = None,
        capacity: int = 65_536,
        max_event_bytes: int = 16 * 1024 * 1024,
        send_timeout: float | None = 5.0,
        join_timeout: float = 1.0,
        linger: float = 1.0,
    ) -> None:
        """Open the bus `name`, as `zbus.Bus` does; it needs no event loop yet."""
        node = Node(
            name,
            dir,
            policy=policy,
            capacity=capacity,
            max_event_bytes=max_event_bytes,
            send_timeout=send_timeout,
            join_timeout=join_timeout,
            linger=linger,
            pursue=_pursue,
            try_seconds=0.0,
        )
        super().__init__(node)
        self._sender = Sender(node.publisher)

    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        overflow: str = "drop",
        capacity: int | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        type: Any = None,
        on_error: Callable[[Mismatch], object] | None = None,
    ) -> Subscription:
        """Return a subscription that gets every event sent, by anybody, after this returns.

        The join runs in a thread, so the loop goes on. Otherwise as `zbus.Bus.subscribe`; `on_gap` and
        `on_error` are plain functions, called in the task that receives.
        """
        wish = self._node.wish(system, kind, overflow, capacity, on_gap, type, on_error)
        return Subscription(await run_in_thread("zbus-join", self._node.join, wish, Channel, self))

    async def send(
        self, system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
    ) -> None:
        """Send one event to every subscriber on the bus, as `zbus.Bus.send`.

        If it is cancelled while it waits, the event went to nobody.
        """
        self._turn -= 1
        if not self._turn:
            await self._take_turn()
        rest = self._sender.send(system, kind, path, data, timeout=timeout)
        if rest is not None:
            await rest

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
        """Let the other tasks of the loop run now and then, though nothing has to be waited for."""
        self._turn = _TURN_EVENTS
        await asyncio.sleep(0)

    async def flush(self, timeout: float | None = DEFAULT) -> None:
        """Wait until every subscriber's process has taken what this bus has sent; see `zbus.Bus.flush`."""
        for pause in self._node.flushing(timeout):
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Leave the bus. Channels end once drained; what was sent is handed over within `linger` seconds."""
        try:
            await run_in_thread("zbus-close", self._node.close)
        except Unavailable:  # no thread is to be had: better hold up the loop than leave the bus open
            self._node.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        await self.close()


_default = Default(Bus)


async def subscribe(
    system: str,
    kind: str | None = None,
    *,
    overflow: str = "drop",
    capacity: int | None = None,
    on_gap: Callable[[Gap], object] | None = None,
    type: Any = None,
    on_error: Callable[[Mismatch], object] | None = None,
) -> Subscription:
    """Subscribe on the default bus of asyncio, which opens at its first use; see `Bus.subscribe`."""
    return await _default.get().subscribe(
        system, kind, overflow=overflow, capacity=capacity, on_gap=on_gap, type=type, on_error=on_error
    )


async def send(
    system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
) -> None:
    """Send an event on the default bus; see `Bus.send`."""
    await _default.get().send(system, kind, path, data, timeout=timeout)


async def send_many(
    system: str, kind: str, items: Iterable[tuple[str, Any]], *, timeout: float | None = DEFAULT
) -> int:
    """Send several events of one topic on the default bus; see `Bus.send_many`."""
    return await _default.get().send_many(system, kind, items, timeout=timeout)


async def flush(timeout: float | None = DEFAULT) -> None:
    """Wait until everybody has taken what was sent on the default bus, if it is open; see `Bus.flush`."""
    if _default.bus is not None and not _default.bus.closed:
        await _default.bus.flush(timeout)


async def close() -> None:
    """Close the default bus, if it is open; the next use opens it again, on whatever loop."""
    if _default.bus is not None:
        await _default.bus.close()
