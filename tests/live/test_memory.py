"""Queues bounded in bytes: what a channel keeps of large events, that it counts the rest, and recovers."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

import zbus
from zbus import aio
from zbus.runtime import malloc_trim

from .process import LIMIT, Spawn, receive
from .quiet import fill, read_all
from .workers import resident_mib

MIB = 1 << 20
SMALL = 1000


def sent_while_nobody_reads(bus: zbus.Bus, every: zbus.Subscription, count: int, size: int = MIB) -> None:
    """Send, with another channel as proof that each has passed the forwarder."""
    for number in range(count):
        bus.send("a", "b", "/1", bytes([number]) * size)
        assert receive(every).data[:1] == bytes([number])


def recovers(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    """See the channel take a thousand small events at once again: a narrow one holds four."""
    every = bus.subscribe("a", "small")
    deadline = time.monotonic() + LIMIT
    while True:
        read_all(sub)  # a reader that finds nothing takes the whole room again
        before = sub.lost
        for number in range(SMALL):
            bus.send("a", "small", "/1", number)
        for _ in range(SMALL):
            receive(every)
        try:
            got = [receive(sub, timeout=1).data for _ in range(SMALL)]
        except zbus.Timeout:
            assert time.monotonic() < deadline
            continue
        if got == [*range(SMALL)]:
            assert sub.lost == before
            return


@pytest.mark.parametrize("limit", [8, 16])
def test_a_channel_that_is_not_read_keeps_about_its_bytes_and_counts_the_rest(
    bus: zbus.Bus, limit: int
) -> None:
    every = bus.subscribe("a", "b")
    sub = bus.subscribe("a", capacity_bytes=limit * MIB)
    sent_while_nobody_reads(bus, every, 10 * limit)
    bus.send("a", "b", "/1", b"")  # the queue is full: it shows what is lost once it is read
    room = 0
    while True:
        evt, _ = sub.channel().receive(timeout=LIMIT)
        assert evt is not None
        room += 1
        if room + sub.lost >= 10 * limit or room > 10 * limit:
            break
        if not sub.channel()._source.queue.handle.poll(100):
            bus.send("a", "b", "/1", b"")
    assert limit / 2 - 1 <= room <= 2 * limit + 4
    recovers(bus, sub)


def test_small_events_are_not_dropped_for_their_bytes(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", capacity=20_000, capacity_bytes=8 * MIB)
    every = bus.subscribe("a")
    for number in range(20_000):
        bus.send("a", "b", "/1", number)
    for number in range(20_000):
        assert receive(every).data == number
    for number in range(20_000):
        assert receive(sub).data == number
    assert sub.lost == 0


def test_small_events_that_come_one_by_one_take_no_more_than_many_at_once(bus: zbus.Bus) -> None:
    every = bus.subscribe("a")
    sub = bus.subscribe("a")
    before = resident_mib()
    for number in range(10_000):
        bus.send("a", "b", "/1", number)
        receive(every)
    assert resident_mib() < before + 30  # 80 if each kept the buffer that it was read into
    assert sub.lost == 0


def test_one_event_larger_than_the_limit_passes(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, capacity_bytes=100) as bus:
        for overflow in ("drop", "block", "latest"):
            sub = bus.subscribe("a", overflow=overflow)
            for number in range(5):
                bus.send("a", "b", "/1", bytes([number]) * MIB)
                assert receive(sub).data == bytes([number]) * MIB
            assert sub.lost == 0
            sub.close()


def test_block_holds_its_publisher_before_it_holds_twice_its_bytes(bus: zbus.Bus, zbus_dir: str) -> None:
    limit = 8
    sub = bus.subscribe("a", overflow="block", capacity_bytes=limit * MIB)
    with zbus.Bus(dir=zbus_dir, capacity_bytes=limit * MIB, send_timeout=0.2) as sender:
        sent = fill(lambda number: sender.send("a", "b", "/1", bytes([number]) * MIB))
        assert limit / 2 <= sent <= 5 * limit  # the channel, its forwarder, the publisher
        for number in range(1, sent + 1):
            assert receive(sub).data[:1] == bytes([number])
        assert sub.lost == 0


def test_latest_forgets_the_oldest_keys_beyond_its_bytes(bus: zbus.Bus) -> None:
    every = bus.subscribe("a")
    sub = bus.subscribe("a", overflow="latest", capacity_bytes=4 * MIB)
    for number in range(20):
        bus.send("a", "b", f"/{number}", b"x" * MIB)
        receive(every)
    deadline = time.monotonic() + LIMIT
    while sub.lost < 17:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [receive(sub).path for _ in range(3)] == ["/17", "/18", "/19"]
    assert sub.lost == 17


def test_a_task_that_waits_hears_of_events_between_large_ones(zbus_dir: str) -> None:
    """A look at the socket by another thread must not take away what wakes the loop."""

    async def run() -> None:
        async with aio.Bus(dir=zbus_dir, capacity_bytes=2 * MIB) as bus:
            sub = await bus.subscribe("a")
            for number in range(200):
                await bus.send("a", "b", "/1", bytes([number]) * (MIB // 2))
                evt, ok = await sub.channel().receive(timeout=LIMIT)
                assert ok
                assert evt.data[:1] == bytes([number])
            assert sub.lost == 0

    asyncio.run(run())


def test_memory_is_given_back_once_much_came_by_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []

    class Library:
        @staticmethod
        def malloc_trim(pad: int) -> None:
            trimmed.append(pad)

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library)
    monkeypatch.setattr(malloc_trim, "_moved", 0)
    monkeypatch.setattr(malloc_trim, "_seen", 0)
    malloc_trim.note_large_bytes(20 * MIB)
    malloc_trim.trim_memory()
    assert trimmed == []
    malloc_trim.trim_memory()
    malloc_trim.trim_memory()
    assert trimmed == [0]


def test_an_idle_publisher_frees_what_waits_for_a_reader_that_was_killed(zbus_dir: str, spawn: Spawn) -> None:
    stopped = spawn("idle_subscriber", "a", "drop", 65_536).ready()
    with zbus.Bus(dir=zbus_dir, capacity_bytes=256 * MIB) as sender:
        sender.send("a", "b", "/1", 0)
        stopped.signal(signal.SIGSTOP)
        before = resident_mib()
        for _ in range(60):
            sender.send("a", "b", "/1", bytes(MIB))
        assert resident_mib() > before + 50
        stopped.signal(signal.SIGKILL)
        deadline = time.monotonic() + LIMIT
        while resident_mib() > before + 20:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_bytes_out_of_range_are_refused(zbus_dir: str, value: int) -> None:
    with pytest.raises(zbus.Invalid, match="capacity_bytes"):
        zbus.Bus(dir=zbus_dir, capacity_bytes=value)
    with zbus.Bus(dir=zbus_dir) as bus, pytest.raises(zbus.Invalid, match="capacity_bytes"):
        bus.subscribe("a", capacity_bytes=value)
