"""The channel for asyncio: tasks sleep until the descriptor of its source is readable, and never block.

libzmq's descriptor is edge-triggered: it says that something may have changed, and any use of the socket
takes that away. So a task first takes an event without waiting, and creates a future only if there is none,
both under the lock of the source. See `waker`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from math import inf
from types import TracebackType
from typing import Any, Generic, cast, overload

from ..event import CLOSED, Closed, D, Event, Received
from ..options import check_timeout
from ..receiving.channel_base import (
    ChannelBase,
    E,
    F,
    Selected,
    SubscriptionBase,
    check_channels,
    first_ready,
    no_event_within,
)
from ..receiving.queue import Ended
from .waker import Waker, until

__all__ = ["TURN_EVENTS", "Channel", "Subscription", "select"]

TURN_EVENTS = 256
"""Events that are there are received, and sent, without yielding to the event loop, but not more than this
many in a row, so that other tasks get their turn."""


class Channel(ChannelBase[D]):
    """The receiving end of a subscription.

    Events of one publisher arrive in the order in which they were sent. Any task of the loop may receive. If
    several do, each event goes to one of them.
    """

    _turn = TURN_EVENTS

    def __aiter__(self) -> Channel[D]:
        """Yield events until the channel is closed and drained. This is the fastest way to receive."""
        return self

    async def __anext__(self) -> Event[D]:
        """Return the next event. Cancelling this loses no event."""
        self._turn -= 1
        if not self._turn:
            self._turn = TURN_EVENTS
            await asyncio.sleep(0)
        # This is `_wait` without a deadline, written out: a process that has just woken up is slow, so one
        # coroutine less is worth it (measured).
        source = self._source
        while True:
            try:
                with source.lock:
                    if (evt := source.take()) is None:
                        waiter = self._waiter()
            except Ended:
                raise StopAsyncIteration from None
            finally:
                self._report()
            if evt is not None:
                return evt
            try:
                await waiter
            except BaseException:
                self._forget(waiter)
                raise

    async def receive(self, timeout: float | None = None) -> Received[D] | Closed:
        """Return `(event, True)`, or `(None, False)` once the channel is closed and drained.

        Cancelling this loses no event.

        Args:
            timeout: seconds to wait for an event; `None` means forever, 0 takes only what is there.

        Returns:
            A tuple that also has the attributes `ok` and `event`.

        Raises:
            TypeError: `timeout` is not a number.
            Invalid: `timeout` is negative. Not retryable.
            Timeout: (a `TimeoutError`) no event arrived in time. Retryable; no event is lost.
            Canceled: the bus belongs to the parent of this forked process. Not retryable.
        """
        seconds = check_timeout(timeout)
        try:
            evt = await self._wait(time.monotonic() + seconds)
        except TimeoutError:
            raise no_event_within(seconds) from None
        return Received((evt, True)) if evt is not None else CLOSED

    async def _wait(self, deadline: float) -> Event[D] | None:
        """Return the next event, or `None` at the end; raise `TimeoutError` after `deadline`."""
        while True:
            late = deadline != inf and time.monotonic() >= deadline
            # There is no `await` between taking an event and returning it, so a cancellation cannot lose it.
            try:
                with self._source.lock:
                    evt = self._source.take()
                    if evt is None and not late:
                        waiter = self._waiter()
            except Ended:
                return None
            finally:
                self._report()
            if evt is not None:
                return evt
            if late:
                raise TimeoutError
            waker: Any = self._source.waker
            await until(waiter, deadline, (waker,) if waker is not None else ())

    def _waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be something to receive. Hold the lock."""
        waker = self._get_waker()
        waiter = waker.loop.create_future()
        waker.add(waiter)
        return waiter

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        waker: Any = self._source.waker
        if waker is not None:
            waker.remove(waiter)

    def _get_waker(self) -> Waker:
        """Return the waker of the running loop; a channel may move to another one. Hold the lock."""
        waker: Any = self._source.waker  # which only this class sets
        if waker is None or waker.loop is not asyncio.get_running_loop():
            if waker is not None:
                waker.close_soon()
            waker = self._source.waker = Waker(self._source.fileno())
        return cast("Waker", waker)

    async def close(self) -> None:
        """Stop new events.

        Events that have arrived stay receivable; after the last one `receive` returns `(None, False)` and
        iteration ends. Wakes whoever waits for this channel. Closing twice is fine.
        """
        self._source.close()

    def __del__(self) -> None:
        super().__del__()
        if (waker := self._source.waker) is not None:
            waker.close_soon()


class Subscription(SubscriptionBase[Channel[D]], Generic[D]):
    """A subscription: what `Bus.subscribe` returns.

    Use it with `async for`, like its channel, and with `async with`, which closes it. It also closes when
    nothing refers to it or its channel any more.
    """

    async def close(self) -> None:
        """Stop new events; those that have arrived stay receivable. Closing twice is fine."""
        await self._channel.close()

    def __aiter__(self) -> Channel[D]:
        return self._channel

    async def __aenter__(self) -> Subscription[D]:
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: TracebackType | None) -> None:
        await self.close()


@overload
async def select(
    first: Channel[D], second: Channel[E], /, *, timeout: float | None = None
) -> Selected[Channel[D] | Channel[E], D | E]: ...
@overload
async def select(
    first: Channel[D], second: Channel[E], third: Channel[F], /, *, timeout: float | None = None
) -> Selected[Channel[D] | Channel[E] | Channel[F], D | E | F]: ...
@overload
async def select(*channels: Channel[D], timeout: float | None = None) -> Selected[Channel[D], D]: ...
async def select(*channels: Channel, timeout: float | None = None) -> Selected[Channel, Any]:
    """Wait until one of several channels has an event; return `(channel, event, True)`.

    If several have one, the first in the order of the arguments is returned. A channel that is closed and
    drained is returned too, as `(channel, None, False)`; don't pass it to `select` again. The channels may
    belong to different buses. Cancelling this loses no event.

        channel, evt, ok = await zbus.aio.select(orders.channel(), metrics.channel(), timeout=1.0)

    Args:
        channels: one or more, each from `Subscription.channel`.
        timeout: seconds to wait for an event; `None` means forever, 0 takes only what is there.

    Raises:
        TypeError: an argument is not a channel, or `timeout` is not a number.
        Invalid: there is no channel, or `timeout` is negative. Not retryable.
        Timeout: (a `TimeoutError`) no event arrived in time. Retryable; no event is lost.
        Canceled: a bus belongs to the parent of this forked process. Not retryable.
    """
    check_channels(channels, Channel)
    seconds = check_timeout(timeout)
    deadline = time.monotonic() + seconds
    each = dict.fromkeys(channels)
    while True:
        late = time.monotonic() >= deadline
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with ExitStack() as held:
            for channel in each:
                held.enter_context(channel._source.lock)
            found = first_ready(each)
            wakers = [] if found or late else [channel._get_waker() for channel in each]
            for waker in wakers:
                waker.add(waiter)
        for channel in each:
            channel._report()
        if found is not None:
            return found
        if late:
            raise no_event_within(seconds)
        await until(waiter, deadline, wakers)
