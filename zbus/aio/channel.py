"""A channel for asyncio: it sleeps on its socket's descriptor, and drains that without blocking."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from math import inf
from types import TracebackType
from typing import Any, Generic, cast, overload

from .. import channel
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
from ..runtime.docstrings import details_of
from .waker import Waker, until

__all__ = ["TURN_EVENTS", "Channel", "Subscription", "select"]

TURN_EVENTS = 256
"""What is ready is taken without asking the event loop; so often the others get their turn nevertheless."""


class Channel(ChannelBase[D]):
    """The receiving end of a subscription. Several tasks of its loop may share its events."""

    _turn = TURN_EVENTS

    def __aiter__(self) -> Channel[D]:
        """Give events until the channel is closed and drained. The fastest way to receive."""
        return self

    async def __anext__(self) -> Event[D]:
        """Return the next event. Cancelling this loses none."""
        self._turn -= 1
        if not self._turn:
            self._turn = TURN_EVENTS
            await asyncio.sleep(0)
        # `_wait` for ever, written out: a process that has just woken is slow, so it pays to make fewer
        # coroutines (measured).
        source = self._source
        while True:
            try:
                with source.lock:
                    if (evt := self._source.take()) is None:
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

    @details_of(channel.Channel.receive)
    async def receive(self, timeout: float | None = None) -> Received[D] | Closed:
        """Return `(event, True)`, or `(None, False)` once the channel is closed and drained.

        Cancelling this loses no event. Otherwise as `zbus.Channel.receive`.
        """
        seconds = check_timeout(timeout)
        try:
            evt = await self._wait(time.monotonic() + seconds)
        except TimeoutError:
            raise no_event_within(seconds) from None
        return Received((evt, True)) if evt is not None else CLOSED

    async def _wait(self, deadline: float) -> Event[D] | None:
        """Return the next event, `None` once there will be none; raise `TimeoutError` after `deadline`."""
        while True:
            late = deadline != inf and time.monotonic() >= deadline
            # Nothing is awaited between the taking of an event and its return, so nobody can cancel that.
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
            waker = self._waker
            await until(waiter, deadline, (waker,) if waker is not None else ())

    def _waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be something to receive. Under the lock."""
        waker = self._get_waker()
        waiter = waker.loop.create_future()
        waker.add(waiter)
        return waiter

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        if (waker := self._waker) is not None:
            waker.remove(waiter)

    @property
    def _waker(self) -> Waker | None:
        return cast(Waker | None, self._source.waker)  # nobody else sets it

    def _get_waker(self) -> Waker:
        """Return the waker of this loop. Under the lock."""
        waker = self._waker
        if waker is not None and waker.loop is not asyncio.get_running_loop():
            waker.close_soon()
            waker = None
        if waker is None:
            waker = self._source.waker = Waker(self._source.fileno())
        return waker

    async def close(self) -> None:
        """Stop new events. What is buffered stays receivable; waiting tasks wake; twice is fine."""
        self._source.close()

    def __del__(self) -> None:
        super().__del__()
        if (waker := self._waker) is not None:
            waker.close_soon()


class Subscription(SubscriptionBase[Channel[D]], Generic[D]):
    """A subscription: a channel of events until it is closed. For `async with` and `async for`."""

    async def close(self) -> None:
        """Stop new events; what is buffered stays receivable. Closing twice is fine."""
        await self._channel.close()

    def __aiter__(self) -> Channel[D]:
        return self._channel

    async def __aenter__(self) -> Subscription[D]:
        return self

    async def __aexit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
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
@details_of(channel.select)
async def select(*channels: Channel, timeout: float | None = None) -> Selected[Channel, Any]:
    """Wait for several channels: return `(channel, event, True)` of the first that has an event.

    Cancelling this loses no event. Otherwise as `zbus.select`.
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
