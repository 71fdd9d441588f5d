"""What wakes a loop: it watches a channel as long as somebody waits, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import pytest

import zbus
from zbus import aio
from zbus.aio.waker import Waker


@pytest.fixture
async def abus(zbus_dir: str) -> AsyncIterator[aio.Bus]:
    async with aio.Bus(dir=zbus_dir) as opened:
        yield opened


@pytest.mark.parametrize("overflow", ["drop", "latest"])
async def test_what_nobody_receives_does_not_keep_the_loop_busy(abus: aio.Bus, overflow: str) -> None:
    sub = await abus.subscribe("a", overflow=overflow)
    with pytest.raises(zbus.Timeout):
        await sub.channel().receive(timeout=0.01)  # now the loop watches
    for number in range(100):
        await abus.send("a", "b", f"/{number}")
    before = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - before < 0.2


async def test_time_outs_over_and_over_leave_nothing_behind(abus: aio.Bus) -> None:
    channel = (await abus.subscribe("a")).channel()
    for _ in range(100):
        with pytest.raises(zbus.Timeout):
            await channel.receive(timeout=0.0001)
    assert channel._source.waker is not None
    assert not channel._source.waker._waiters


async def test_a_waker_that_was_disarmed_wakes_the_next_who_waits(abus: aio.Bus) -> None:
    """While nobody waits the loop does not watch the channel; it has to again for whoever comes then."""
    sub = await abus.subscribe("a")
    for number in range(20):
        with pytest.raises(zbus.Timeout):
            await sub.channel().receive(timeout=0.001)
        await abus.send("a", "b", "/1", number)
        await asyncio.sleep(0.002)  # for the loop to notice that nobody waits
        assert (await sub.channel().receive(timeout=10))[0].data == number
        waiting = asyncio.ensure_future(sub.channel().receive(timeout=10))
        await asyncio.sleep(0)
        await abus.send("a", "b", "/1", number)
        assert (await waiting)[0].data == number


async def test_a_cancelled_iteration_leaves_no_waiter(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a")
    for _ in range(50):
        waiting = asyncio.ensure_future(anext(aiter(sub)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    waker = sub.channel()._source.waker
    assert waker is not None
    assert len(waker._waiters) == 0


async def test_a_wait_that_ends_early_leaves_no_timer(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a")

    def timers() -> int:
        found = [one for one in gc.get_objects() if isinstance(one, asyncio.TimerHandle)]
        return sum(not timer.cancelled() for timer in found)

    before = timers()
    for _ in range(20):
        waiting = asyncio.ensure_future(sub.channel().receive(timeout=600))
        await asyncio.sleep(0)
        await abus.send("a", "b", "/1")
        await waiting
    assert timers() <= before


async def test_what_nobody_receives_is_noticed_once_or_twice(
    abus: aio.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is there its descriptor is readable, so the loop must not go on watching it."""
    calls = []
    notice = Waker._notice
    monkeypatch.setattr(Waker, "_notice", lambda waker: (calls.append(waker), notice(waker)))
    sub = await abus.subscribe("a")
    with pytest.raises(zbus.Timeout):
        await sub.channel().receive(timeout=0.01)
    await abus.send("a", "b", "/1")
    while not calls:  # else nothing has arrived yet
        await asyncio.sleep(0.001)
    for _ in range(100):
        await asyncio.sleep(0)  # a round of the loop each
    assert len(calls) < 10
