"""The waker: how a coroutine sleeps until a descriptor of libzmq becomes readable."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf

__all__ = ["Waker", "until"]


class Waker:
    """Wakes coroutines when a descriptor stirs.

    It watches a duplicate, so that nobody else can close it, or get its number, while the loop has it.
    """

    def __init__(self, descriptor: int) -> None:
        """Watch `descriptor` on the running loop."""
        self.loop = asyncio.get_running_loop()
        self._descriptor = os.dup(descriptor)
        self._waiters: set[asyncio.Future[None]] = set()
        self._armed = False
        self._notified = False

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Have `waiter` done at the next notification."""
        self._waiters.add(waiter)
        if not self._armed and self._descriptor >= 0:
            self.loop.add_reader(self._descriptor, self._notice)
            self._armed = True

    def remove(self, waiter: asyncio.Future[None]) -> None:
        """Forget `waiter`, if it still waits."""
        self._waiters.discard(waiter)

    def _notice(self) -> None:
        # The descriptor stays readable until somebody looks into the socket. So the loop calls this once more
        # before those who were woken have: that call is to be passed over, or they would be woken in vain.
        if self._notified:
            self._notified = False
        elif self._waiters:
            self._notified = True
            self.notify()
        else:  # nobody will look, and the loop would spin
            self._armed = False
            self.loop.remove_reader(self._descriptor)

    def notify(self) -> None:
        """Wake all. On the loop's thread."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _done(waiter)

    def notify_threadsafe(self) -> None:
        """Wake all. Any thread may call this."""
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self.loop.call_soon_threadsafe(self.notify)

    def close(self) -> None:
        """Let go of the descriptor. On the loop's thread, or when the loop is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if self._armed and not self.loop.is_closed():
                self.loop.remove_reader(descriptor)
            self._armed = False
            os.close(descriptor)

    def close_soon(self) -> None:
        """Let go of the descriptor. Any thread may call this."""
        try:
            self.loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed
            self.close()


def _done(waiter: asyncio.Future[None]) -> None:
    """Wake a waiter, unless it was or is cancelled."""
    if not waiter.done():
        waiter.set_result(None)


async def until(waiter: asyncio.Future[None], deadline: float, wakers: Iterable[Waker]) -> None:
    """Wait until one of `wakers` does its work, or until `deadline` (monotonic)."""
    timer = None
    if deadline != inf:
        timer = waiter.get_loop().call_later(max(0.0, deadline - time.monotonic()), _done, waiter)
    try:
        await waiter
    finally:
        for waker in wakers:
            waker.remove(waiter)
        if timer is not None:
            timer.cancel()
