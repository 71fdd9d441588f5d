"""What only a bus on an event loop can get wrong: holding up the loop, spinning it, and cancellation."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import zbus
from zbus import aio
from zbus.receiving.ingress import Ingress

from .process import Spawn
from .quiet import fill_async


@pytest.fixture
async def abus(zbus_dir: str) -> AsyncIterator[aio.Bus]:
    async with aio.Bus(dir=zbus_dir) as opened:
        yield opened


class Ticks:
    """Counts how often other tasks of the loop get their turn while a block runs."""

    async def __aenter__(self) -> Ticks:
        self.count = 0
        self._enough = asyncio.Event()
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def enough(self) -> None:
        """Wait until others have had their turn many times."""
        await self._enough.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.count += 1
            if self.count == 50:
                self._enough.set()

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


async def fill(bus: aio.Bus) -> int:
    """Send to a `block` subscriber until it has no room; return how many it took, numbered from 0."""
    return await fill_async(lambda number: bus.send("a", "b", "/1", number - 1, timeout=0.1))


def test_the_package_offers_it_without_importing_asyncio() -> None:
    program = "import sys, zbus; assert 'asyncio' not in sys.modules; zbus.aio.Bus; zbus.aio.select"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zbus.nothing


async def test_a_send_that_waits_for_a_join_does_not_hold_up_the_loop(spawn: Spawn, zbus_dir: str) -> None:
    stopped = spawn("idle_subscriber", "a", "drop", 100).ready()
    stopped.signal(signal.SIGSTOP)
    async with aio.Bus(dir=zbus_dir, join_timeout=60) as bus, Ticks() as ticks:
        sending = asyncio.create_task(bus.send("a", "b", "/1"))
        await ticks.enough()
        assert not sending.done()
        stopped.signal(signal.SIGCONT)
        await sending


async def test_a_send_that_waits_for_room_does_not_hold_up_the_loop(abus: aio.Bus) -> None:
    _full = await abus.subscribe("a", overflow="block", capacity=10)
    await fill(abus)
    async with Ticks() as ticks:
        sending = asyncio.create_task(abus.send("a", "b", "/1", timeout=60))
        await ticks.enough()
        assert not sending.done()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_a_join_that_has_to_wait_does_not_hold_up_the_loop(
    abus: aio.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Ingress.publish
    go_on = threading.Event()

    def late(*args: Any) -> None:
        assert go_on.wait(60)  # stands for a forwarder that does not get a turn
        publish(*args)

    monkeypatch.setattr(Ingress, "publish", late)
    async with Ticks() as ticks:
        joining = asyncio.create_task(abus.subscribe("a"))
        await ticks.enough()
        assert not joining.done()
        go_on.set()
        await joining


async def test_many_sends_that_wait_wait_together(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a", overflow="block", capacity=10)
    sent = await fill(abus)
    waiting = [asyncio.create_task(abus.send("a", "b", "/1", sent + n, timeout=30)) for n in range(50)]
    got = {(await sub.channel().receive(timeout=30))[0].data for _ in range(sent + 50)}
    await asyncio.gather(*waiting)
    assert got == set(range(sent + 50))


async def test_cancelling_a_receive_loses_no_event(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a")
    channel = sub.channel()
    other = await abus.subscribe("b")
    waits: tuple[Callable[[], Any], ...] = (
        channel.receive,
        channel.__anext__,
        lambda: aio.select(channel, other.channel()),
    )
    dice = random.Random(1)
    got: list[int] = []

    async def publish() -> None:
        for number in range(2_000):
            await abus.send("a", "b", "/1", number)
            if dice.random() < 0.3:
                await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    cancelled = 0
    while len(got) < 2_000:
        task = asyncio.ensure_future(dice.choice(waits)())
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            cancelled += 1
            continue
        got.append(
            next(part for part in (result if isinstance(result, tuple) else (result,)) if is_event(part)).data
        )
    await publishing
    assert got == list(range(2_000))
    assert cancelled > 100


def is_event(value: object) -> bool:
    return isinstance(value, zbus.Event)


async def test_an_event_for_a_receiver_that_is_cancelled_meanwhile_goes_to_the_next(abus: aio.Bus) -> None:
    channel = (await abus.subscribe("a")).channel()
    dice = random.Random(1)
    went_on = 0
    for number in range(300):
        first, second = (asyncio.create_task(channel.receive()) for _ in range(2))
        await asyncio.sleep(0)
        await abus.send("a", "b", "/1", number)
        for _ in range(dice.randrange(60)):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait((first, second), timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if first.done() and first.cancelled():
            went_on += 1
            assert (await asyncio.wait_for(second, 10))[0].data == number
        else:
            assert (await first)[0].data == number
            second.cancel()
            await asyncio.wait((second,))
    assert went_on


async def test_a_cancelled_send_went_to_nobody(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a", overflow="block", capacity=10)
    sent = await fill(abus)
    task = asyncio.create_task(abus.send("a", "b", "/1", "never", timeout=None))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(await sub.channel().receive(timeout=30))[0].data for _ in range(sent)] == list(range(sent))
    await abus.send("a", "b", "/1", "next")
    evt, _ = await sub.channel().receive(timeout=30)
    assert (evt.data, evt.seq) == ("next", sent + 1)


async def test_a_cancelled_subscribe_leaves_nothing_behind(abus: aio.Bus) -> None:
    for _ in range(20):
        task = asyncio.create_task(abus.subscribe("a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    sub = await abus.subscribe("b")  # joins one at a time, so the others are over
    gc.collect()
    async with asyncio.timeout(10):
        while listening() != [[("b", "*")]]:
            await asyncio.sleep(0.01)
    await sub.close()


def listening() -> list[list[tuple[str, str]]]:
    return [peer.patterns for peer in zbus.peers() if peer.role == "subscriber"]


async def test_busy_loops_of_send_and_receive_let_others_have_their_turn(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a")
    await abus.send("a", "b", "/1", -1)  # the first waits for the join
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(turn())
    for number in range(10_000):
        await abus.send("a", "b", "/1", number)
    assert turns >= 10
    turns = 0
    async for evt in sub:
        if evt.data == 9_999:
            break
    assert turns >= 10
    task.cancel()


def test_a_bus_may_be_used_on_one_loop_after_the_other(zbus_dir: str) -> None:
    bus = aio.Bus(dir=zbus_dir)

    async def use(number: int) -> aio.Subscription:
        sub = await bus.subscribe("a")
        with pytest.raises(zbus.Timeout):
            await sub.channel().receive(timeout=0.01)
        await bus.send("a", "b", "/1", number)
        assert (await sub.channel().receive(timeout=30))[0].data == number
        return sub

    async def go_on(sub: aio.Subscription) -> None:
        with pytest.raises(zbus.Timeout):
            await sub.channel().receive(timeout=0.01)
        await bus.send("a", "b", "/1", "again")
        assert (await sub.channel().receive(timeout=30))[0].data == "again"

    asyncio.run(use(1))
    asyncio.run(go_on(asyncio.run(use(2))))
    asyncio.run(bus.close())


def test_a_program_that_forgets_to_close_ends_in_time_and_leaves_nothing(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    sub = bus.subscribe("a")
    program = """
import asyncio, zbus
async def main():
    global bus, sub
    bus = zbus.aio.Bus()
    sub = await bus.subscribe("x", overflow="latest")
    await bus.send("a", "b", "/1", "last words")
    try:
        await sub.channel().receive(timeout=0.01)
    except zbus.Timeout:
        pass
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sub.channel().receive(timeout=30)[0].data == "last words"
    assert len(os.listdir(f"{zbus_dir}/v1/default")) == 4  # ours: token, socket, entry, member


async def test_a_subscription_that_is_dropped_closes_itself(abus: aio.Bus) -> None:
    sub = await abus.subscribe("a")
    with pytest.raises(zbus.Timeout):
        await sub.channel().receive(timeout=0.01)
    assert listening() == [[("a", "*")]]
    del sub
    async with asyncio.timeout(10):
        while listening() != [[]]:
            await asyncio.sleep(0.01)


async def test_both_kinds_of_bus_meet_on_the_same_bus(abus: aio.Bus, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        theirs, ours = bus.subscribe("a"), await abus.subscribe("a")
        await abus.send("a", "b", "/from/asyncio")
        bus.send("a", "b", "/from/a/thread")
        assert {evt.path for evt in [await anext(aiter(ours)) for _ in range(2)]} == {
            "/from/asyncio",
            "/from/a/thread",
        }
        assert {theirs.channel().receive(timeout=30)[0].path for _ in range(2)} == {
            "/from/asyncio",
            "/from/a/thread",
        }
