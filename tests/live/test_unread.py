"""How long the oldest unread event of a channel has waited, as another process is told."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import zbus
from zbus import aio

from .numbers import looks, numbers
from .process import LIMIT, receive
from .quiet import read_all
from .raw import TWIN
from .test_foreign import Foreign


def unread(found: zbus.Numbers, least: float = 0.0) -> bool:
    """Return whether the first channel has events that have waited for so long."""
    row = found.by_channel[0]
    return row.unread is not None and row.unread > least


@pytest.fixture
def sub(bus: zbus.Bus) -> zbus.Subscription:
    return bus.subscribe("a")


@pytest.fixture
def other(bus: zbus.Bus, sub: zbus.Subscription) -> zbus.Subscription:
    """Subscribe once more, so that the arrival of an event there says that all before it has arrived."""
    return bus.subscribe("other")


@pytest.fixture
def foreign(sub: zbus.Subscription, other: zbus.Subscription, zbus_dir: str) -> Iterator[Foreign]:
    peer = Foreign(zbus_dir)
    yield peer
    peer.close()


def test_what_nobody_reads_waits_longer_and_longer(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    assert not unread(numbers(lambda it: it.channels == 1))
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: unread(it, 2.0))
    assert receive(sub).data == 1
    assert read_all(sub) == []


def test_a_reader_that_waits_has_nothing_unread(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    reader = threading.Thread(target=lambda: [*sub])
    reader.start()
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.received == 1 and not unread(it))
    sub.close()
    reader.join(LIMIT)


def test_the_rest_of_a_batch_is_unread(foreign: Foreign, sub: zbus.Subscription) -> None:
    foreign.socket.send(b'a\0b\0\0\0[["/1",0],["/1",1],["/1",2]]')
    assert receive(sub).data == 0
    numbers(lambda it: unread(it, 1.0))
    assert [receive(sub).data for _ in range(2)] == [1, 2]


def test_a_frame_that_was_taken_tells_how_late_its_reader_is(
    foreign: Foreign, sub: zbus.Subscription
) -> None:
    foreign.send_aged([1_000] * 100)
    for number in range(1, 51):
        assert receive(sub).seq == number
    found = numbers(lambda it: it.received == 50 and unread(it, 999.0))
    assert found.by_channel[0].unread is not None
    assert found.by_channel[0].unread < 1_000 + LIMIT
    assert len(read_all(sub)) == 50


def test_large_frames_tell_it_too(foreign: Foreign, sub: zbus.Subscription) -> None:
    sent = time.time() - 1_000
    foreign.socket.send(b"\xff!a\0b\x00100000")
    for number in range(1, 11):
        stamp = f"0123abcd.{number}....{sent * 1e6:.0f}"
        foreign.socket.send(f"a\0b\0/1\0{stamp}\0".encode() + b'"%b"' % (b"x" * 5_000))
    while not sub.channel()._source.queue.counts:
        time.sleep(0.001)
    for _ in range(5):
        receive(sub)
    numbers(lambda it: it.received == 5 and unread(it, 999.0))
    assert len(read_all(sub)) == 5


def test_a_reader_whose_frames_tell_no_time_is_unread_once_it_stops(
    foreign: Foreign, sub: zbus.Subscription
) -> None:
    for number in range(10):
        foreign.socket.send(f"a\0b\0/1\0\0{number}".encode())
    assert receive(sub).data == 0
    numbers(lambda it: it.received == 1 and unread(it, 1.0))
    assert len(read_all(sub)) == 9


def test_each_look_has_a_frame_of_its_own(foreign: Foreign, sub: zbus.Subscription) -> None:
    foreign.send_aged([1_000] * 10 + [500] * 1_000)
    for _ in range(5):
        receive(sub)
    numbers(lambda it: unread(it, 999.0))
    numbers(lambda it: receive(sub) and not unread(it, 999.0) and unread(it, 499.0))
    assert read_all(sub)


def test_a_frame_had_waited_until_it_was_taken(
    foreign: Foreign, sub: zbus.Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not until somebody looked."""
    foreign.send_aged([0] * 10)
    later = time.time() + 1_000
    with monkeypatch.context() as clock:
        clock.setattr("zbus.receiving.queue.time.time", lambda: later)
        receive(sub)
    numbers(lambda it: unread(it, 900.0))
    assert len(read_all(sub)) == 9


def test_the_oldest_event_of_latest_tells_exactly_how_long_it_has_waited(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    sub = bus.subscribe("a", overflow="latest")
    foreign = Foreign(zbus_dir)
    foreign.send_aged([1_000, 500])
    numbers(lambda it: it.received == 2 and unread(it, 999.0))
    receive(sub)
    numbers(lambda it: not unread(it, 999.0) and unread(it, 499.0))
    receive(sub)
    numbers(lambda it: not unread(it))
    foreign.close()


def test_a_task_that_waits_is_woken_though_somebody_has_looked(zbus_dir: str) -> None:
    """A look at its socket would take away what the loop sleeps on."""

    async def main() -> None:
        async with aio.Bus(dir=zbus_dir) as bus, await bus.subscribe("a") as sub:
            foreign = Foreign(zbus_dir)  # which sends no marks: they would wake it, too
            task = asyncio.create_task(sub.channel().receive())
            while sub.channel()._source.waker is None:
                await asyncio.sleep(0)
            with looks() as wait:
                foreign.send_aged([0])  # and this thread, which runs the loop, stands still
                numbers(lambda it: unread(it, 1.0))
                wait(1)
            assert (await asyncio.wait_for(task, LIMIT)).event is not None
            foreign.close()

    asyncio.run(main())


def mark_behind(foreign: Foreign, sub: zbus.Subscription, other: zbus.Subscription, *datas: int) -> None:
    """Send an event and read it, and have a mark wait, and then these events."""
    foreign.send_aged([0])
    mark = b"a\0b\0\x000123abcd.2.\0[]"
    foreign.socket.send(mark)
    foreign.socket.send(TWIN + mark)
    for data in datas:
        foreign.socket.send(b"a\0b\0/1\x000123abcd.%d.\0%d" % (data, data))
    foreign.socket.send(b"other\0b\0/1\0\x001")
    assert receive(sub).data == 1
    assert receive(other).data == 1


def test_who_has_read_everything_has_nothing_unread(
    foreign: Foreign, sub: zbus.Subscription, other: zbus.Subscription
) -> None:
    """A mark follows the last event, and the reader is busy with something else."""
    with looks() as wait:
        mark_behind(foreign, sub, other)
        wait(3)
        numbers(lambda it: it.received == 2 and not unread(it))
        wait(2)
        assert not unread(numbers(lambda it: it.channels == 2))
    foreign.socket.send(b"a\0b\0/1\x000123abcd.2.\x002")
    numbers(lambda it: unread(it, 0.5))
    assert [evt.data for evt in read_all(sub)] == [2]
    assert sub.lost == 0


def held(sub: zbus.Subscription) -> zbus.Channel:
    """Return the channel once its next event was taken out of the socket to be looked at."""
    source = sub.channel()._source
    deadline = time.monotonic() + LIMIT
    while source.queue.held is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return sub.channel()


WAYS: dict[str, Callable[[zbus.Channel, int], object]] = {
    "receive": lambda channel, count: [channel.receive(timeout=10).event for _ in range(count)],
    "forever": lambda channel, count: [channel.receive().event for _ in range(count)],
    "at once": lambda channel, count: [channel.receive(timeout=0).event for _ in range(count)],
    "iterate": lambda channel, count: [*itertools.islice(channel, count)],
    "select": lambda channel, count: [zbus.select(channel, timeout=10)[1] for _ in range(count)],
    "closed": lambda channel, _: [channel.close(), *channel][1:],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("datas", [(2,), (2, 3, 4)])
def test_an_event_that_was_looked_at_is_the_next_one(
    foreign: Foreign, sub: zbus.Subscription, other: zbus.Subscription, way: str, datas: tuple[int, ...]
) -> None:
    mark_behind(foreign, sub, other, *datas)
    channel = held(sub)
    numbers(unread)
    events: Any = WAYS[way](channel, len(datas))
    assert [evt.data for evt in events] == [*datas]
    assert (sub.lost, channel._source.queue.held) == (0, None)
    assert read_all(sub) == [] if way != "closed" else channel.receive() == (None, False)


def test_large_frames_are_counted_from_one_that_was_looked_at_on(
    foreign: Foreign, sub: zbus.Subscription, other: zbus.Subscription
) -> None:
    mark_behind(foreign, sub, other, 2, 3)
    channel = held(sub)
    foreign.socket.send(b"\xff!a\0b\x00100000")
    queue, deadline = channel._source.queue, time.monotonic() + LIMIT
    while not queue.counts:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert receive(sub).data == 2
    assert queue.counts
    assert [evt.data for evt in read_all(sub)] == [3]


def test_a_task_gets_an_event_that_was_looked_at(zbus_dir: str) -> None:
    async def main() -> None:
        async with aio.Bus(dir=zbus_dir) as bus, await bus.subscribe("a") as sub:
            foreign = Foreign(zbus_dir)
            foreign.send_aged([0])
            channel = sub.channel()
            assert (await channel.receive(timeout=LIMIT)).event is not None
            mark = b"a\0b\0\x000123abcd.2.\0[]"
            for frame in (
                mark,
                TWIN + mark,
                b"a\0b\0/1\x000123abcd.2.\x002",
                b"a\0b\0/1\x000123abcd.3.\x003",
            ):
                foreign.socket.send(frame)
            deadline = time.monotonic() + LIMIT
            while channel._source.queue.held is None:  # while the loop is busy
                assert time.monotonic() < deadline
                time.sleep(0.001)
            task = asyncio.create_task(channel.receive())
            assert (await asyncio.wait_for(task, LIMIT)).event.data == 2
            assert (await channel.receive(timeout=LIMIT)).event.data == 3
            foreign.close()

    asyncio.run(main())
