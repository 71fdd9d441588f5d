"""`Event.time`: when an event was sent, by the clock of its sender."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

import zbus
from zbus import aio

from .process import receive
from .raw import joined, stamp_of

# What the spec allows (W45), and what a float loses.
COARSE = 0.000_102


def events(sub: zbus.Subscription, count: int) -> list[zbus.Event]:
    return [receive(sub) for _ in range(count)]


def told(evt: zbus.Event) -> float:
    assert evt.time is not None
    return evt.time


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_an_event_tells_when_it_was_sent(bus: zbus.Bus, overflow: zbus.Overflow) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    between = [time.time()]
    for number in range(20):
        bus.send("a", "b", f"/{number}", number)
        between.append(time.time())
    times = [told(evt) for evt in events(sub, 20)]
    assert times == sorted(times)
    for number, sent in enumerate(times):
        assert between[number] - COARSE <= sent <= between[number + 1], number


def test_the_events_of_a_batch_share_its_time(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    between = []
    for _ in range(3):  # the first is of a new topic, and the decoder has a short cut for the others
        between.append(time.time())
        bus.send_many("a", "b", [("/1", 1), ("/2", 2), ("/3", 3)])
    between.append(time.time())
    for before, after in pairwise(between):
        times = {told(evt) for evt in events(sub, 3)}
        assert len(times) == 1
        assert before - COARSE <= times.pop() <= after


async def test_the_asyncio_twin_tells_it_too(zbus_dir: str) -> None:
    async with aio.Bus() as bus, await bus.subscribe("a") as sub:
        before = time.time()
        await bus.send("a", "b", "/1", 1)
        await bus.send_many("a", "b", [("/2", 2)])
        await bus.send("a", "b", "/3", 3)
        after = time.time()
        times = [told((await sub.channel().receive(30)).event) for _ in range(3)]
        assert before - COARSE <= times[0] <= times[1] <= times[2] <= after


def test_the_time_is_that_of_the_send_and_not_of_the_queue(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1", 1)
    after = time.time()
    while time.time() <= after + COARSE:
        pass
    assert told(receive(sub)) <= after


def test_a_send_that_waited_for_room_tells_when_it_went(bus: zbus.Bus, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as other, other.subscribe("a", overflow="block", capacity=1) as sub:
        sent = 0
        try:
            while True:
                bus.send("a", "b", "/1", "x", timeout=0)
                sent += 1
        except zbus.Timeout:
            refused = time.time()
        events(sub, sent)
        bus.send("a", "b", "/2", "x", timeout=60)
        assert told(receive(sub)) >= refused


def test_each_frame_bears_the_time_after_the_fields_there_were(bus: zbus.Bus, zbus_dir: str) -> None:
    with joined(zbus_dir, b"a") as raw:
        before = time.time_ns() // 1000
        bus.send("a", "b", "/1", 1)
        bus.send("a", "b", "/1", b"x" * 100_000)
        bus.send_many("a", "b", [("/1", 3)])
        stamps = [stamp_of(raw.receive()) for _ in range(3)]
        assert all(stamp.first == 1 and stamp.settled > 0 for stamp in stamps)
        assert all(before - 101 <= stamp.time <= time.time_ns() // 1000 for stamp in stamps)


@dataclass
class Total:
    total: float


@pytest.mark.parametrize("type", [None, Total])
def test_a_copy_keeps_the_time_whether_or_not_it_was_looked_at(
    bus: zbus.Bus, type: type[Total] | None
) -> None:
    sub = bus.subscribe("a") if type is None else bus.subscribe("a", type=type)
    bus.send("a", "b", "/1", {"total": 1.5})
    bus.send("a", "b", "/1", {"total": 1.5})
    copies: tuple[Callable[[zbus.Event], zbus.Event], ...] = (
        copy.copy,
        copy.deepcopy,
        lambda evt: pickle.loads(pickle.dumps(evt)),
    )
    for evt in events(sub, 2):
        fresh = [made(evt) for made in copies]
        sent = told(evt)
        assert {told(one) for one in fresh} == {sent}
        assert {told(made(evt)) for made in copies} == {sent}
