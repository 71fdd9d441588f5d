"""How a coroutine sleeps until a descriptor of libzmq becomes readable.

    descriptor readable ──> loop calls `_notice` ──> all waiting futures are done ──> their tasks look

The loop watches the descriptor only while somebody waits, or has just been woken.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf

__all__ = ["Waker", "until"]


class Waker:
    """Wakes coroutines when a descriptor becomes readable.

    It watches a duplicate, so that nobody else can close the descriptor, or reuse its number, while the loop
    watches it.
    """

    def __init__(self, descriptor: int) -> None:
        """Watch `descriptor` on the running loop."""
        self.loop = asyncio.get_running_loop()
        self._descriptor = os.dup(descriptor)
        self._waiters: set[asyncio.Future[None]] = set()
        self._armed = False
        self._notified = False
        self._waking = False

    @property
    def waits(self) -> bool:
        """Whether somebody waits, and is not about to be woken."""
        return bool(self._waiters) and not self._waking

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Complete `waiter` at the next notification."""
        self._waiters.add(waiter)
        if not self._armed and self._descriptor >= 0:
            self.loop.add_reader(self._descriptor, self._notice)
            self._armed = True

    def remove(self, waiter: asyncio.Future[None]) -> None:
        """Forget `waiter` if it is still waiting."""
        self._waiters.discard(waiter)

    def _notice(self) -> None:
        # The descriptor stays readable until somebody uses the socket. So the loop calls this once more
        # before the tasks that were woken have run. That second call must not wake anybody: they would wake
        # in vain.
        if self._notified:
            self._notified = False
        elif self._waiters:
            self._notified = True
            self.notify()
        else:  # nobody waits, so nobody would use the socket, and the loop would spin
            self._armed = False
            self.loop.remove_reader(self._descriptor)

    def notify(self) -> None:
        """Wake all that wait. Call this in the loop's thread."""
        self._waking = False
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _done(waiter)

    def notify_threadsafe(self) -> None:
        """Wake all that wait. Any thread may call this."""
        self._waking = True
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self.loop.call_soon_threadsafe(self.notify)

    def close(self) -> None:
        """Stop watching. Call this in the loop's thread, or when the loop is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if self._armed and not self.loop.is_closed():
                self.loop.remove_reader(descriptor)
            self._armed = False
            os.close(descriptor)

    def close_soon(self) -> None:
        """Stop watching. Any thread may call this."""
        try:
            self.loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed
            self.close()


def _done(waiter: asyncio.Future[None]) -> None:
    """Wake a waiter, unless it was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


async def until(waiter: asyncio.Future[None], deadline: float, wakers: Iterable[Waker]) -> None:
    """Wait until one of `wakers` completes `waiter`, or until `deadline` of the monotonic clock."""
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
