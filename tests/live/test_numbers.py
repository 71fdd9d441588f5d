"""Live numbers: what a process has sent and received, as others see it within a second or two."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time

import pytest

import zbus
from zbus import aio
from zbus.sending import streams

from .numbers import looks, member_file, numbers, publications
from .process import LIMIT, Spawn, directory, receive
from .quiet import read_all
from .raw import RawSubscriber, joined
from .test_foreign import Foreign


def frame_with_events(raw: RawSubscriber) -> bytes:
    """Return the next frame that is no mark."""
    while (frame := raw.receive(LIMIT)).endswith(b"\0[]"):
        pass
    return frame


def test_what_is_sent_is_told_by_topic(bus: zbus.Bus) -> None:
    for number in range(30):
        bus.send("orders", "order.created", "/orders/1", number)
    bus.send("orders", "blob", "/orders/1", b"x" * 5_000)
    assert bus.send_many("metrics", "cpu", [("/host/1", 0.5)] * 40) == 40
    found = numbers(lambda it: it.events == 71)
    assert [(row.system, row.kind, row.events) for row in found.by_topic] == [
        ("metrics", "cpu", 40),
        ("orders", "order.created", 30),
        ("orders", "blob", 1),
    ]
    assert (found.topics, found.received, found.channels, found.by_channel) == (3, 0, 0, ())
    assert abs(found.time - time.time()) < 3600


def test_bytes_are_those_of_the_frames(bus: zbus.Bus, zbus_dir: str) -> None:
    with joined(zbus_dir, b"a\0") as raw:
        for size in (0, 10, 900, 5_000, 200_000):
            bus.send("a", "small" if size < 1_000 else "large", "/1", "x" * size)
        bus.send_many("a", "small", [("/1", "x" * 10)] * 7)
        got = [frame_with_events(raw) for _ in range(6)]
    found = numbers(lambda it: it.events == 12)
    assert found.bytes == sum(map(len, got))
    by_kind = {row.kind: row.bytes for row in found.by_topic}
    assert by_kind == {
        kind: sum(len(frame) for frame in got if frame.split(b"\0")[1] == kind.encode())
        for kind in ("small", "large")
    }


def test_what_coalesce_holds_counts_when_it_goes(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, coalesce=0.01) as bus, joined(zbus_dir, b"a\0") as raw:
        for number in range(1_000):
            bus.send("a", "b", "/1", number)
        bus.flush(timeout=LIMIT)
        found = numbers(lambda it: it.events == 1_000)
        sizes = 0
        while sizes < found.bytes:
            sizes += len(frame_with_events(raw))
    assert sizes == found.bytes


def test_an_event_that_went_to_nobody_is_not_counted(bus: zbus.Bus) -> None:
    _full = bus.subscribe("a", overflow="block", capacity=2)
    sent = 0
    with pytest.raises(zbus.Timeout):
        while True:
            bus.send("a", "b", "/1", "x" * 300_000, timeout=0.05)
            sent += 1
    found = numbers(lambda it: it.events >= sent)
    assert found.events == found.by_topic[0].events == sent


def test_a_new_origin_begins_a_new_table_and_the_totals_go_on(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_TOPICS", 3)
    for number in range(8):
        bus.send("a", f"k{number}", "/1", number)
        bus.send("a", f"k{number}", "/1", number)
    found = numbers(lambda it: it.events == 16)
    assert found.topics == 8
    assert {row.kind for row in found.by_topic} == {"k6", "k7"}
    assert found.bytes > sum(row.bytes for row in found.by_topic)


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_what_a_channel_has_received_is_told(bus: zbus.Bus, spawn: Spawn, overflow: zbus.Overflow) -> None:
    reader = spawn("reader", "stream", overflow).ready()
    for number in range(1, 501):
        bus.send("stream", "tick", "/1" if number % 2 else f"/{number}", number)
    bus.send_many("stream", "tick", [("/1", number) for number in range(501, 601)])
    bus.send("elsewhere", "tick", "/1", 1)
    reader.tell(600)
    told = reader.hear()
    found = numbers(lambda it: it.received == 600, reader.pid)
    [channel] = found.by_channel
    assert (channel.id, channel.system, channel.kind, channel.overflow) == (1, "stream", "*", overflow)
    assert (channel.received, channel.lost, channel.malformed, channel.mismatched) == (600, 0, 0, 0)
    assert channel.superseded == 600 - told["received"]
    assert (found.channels, found.events) == (1, 0)


def test_what_is_lost_is_told_and_is_not_received(bus: zbus.Bus) -> None:
    sub, every = bus.subscribe("a", capacity=4), bus.subscribe("a")
    for number in range(1_000):
        bus.send("a", "b", "/1", number)
    assert len(read_all(every)) == 1_000
    got = len(read_all(sub))
    bus.send("a", "b", "/1", "shows it")
    assert receive(sub).data == "shows it"
    assert receive(every).data == "shows it"
    assert (got + 1) + sub.lost == 1_001
    found = numbers(lambda it: it.received == got + 1 + 1_001)
    assert [(row.received, row.lost) for row in found.by_channel] == [(got + 1, sub.lost), (1_001, 0)]


def test_foreign_frames_count_with_or_without_a_number(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a", type=int)
    foreign = Foreign(zbus_dir)
    try:
        for frame in (
            b"a\0b\0/1\0\0\0raw bytes",
            b"a\0b\0/1\0\0" + b"1",
            b'a\0b\0\0\0[["/1",2],["/1",3]]',
            b"a\0b\0/1\x000123abcd.5\0" + b"4",
            b"a\0b\0/1\x000123abcd.9\0" + b"5",
            b"a\0b\0/1\x000123abcd.1\0" + b"6",
            b"a\0b\0/1\x000123abcd.2\0" + b'"no number"',
            b"a\0b\0/1\0nonsense\0",
            b"a\0b\0/1\0\0" + b"7",
        ):
            foreign.socket.send(frame)
        got = [receive(sub).data for _ in range(7)]
    finally:
        foreign.close()
    assert got == [1, 2, 3, 4, 5, 6, 7]
    [row] = numbers(lambda it: it.received == 9).by_channel
    assert (row.received, row.lost, row.malformed, row.mismatched) == (9, 3, 1, 2)


def test_joins_of_subscribers_are_told(bus: zbus.Bus, spawn: Spawn) -> None:
    bus.send("a", "b", "/1")
    for _ in range(2):
        spawn("idle_subscriber", "a", "drop", 10).ready()
        bus.send("a", "b", "/1")
    assert numbers(lambda it: it.events == 3).joins == 2


def test_a_channel_that_closes_leaves_the_table_and_ids_are_not_used_again(bus: zbus.Bus) -> None:
    first, second = bus.subscribe("a"), bus.subscribe("a")
    bus.send("a", "b", "/1", 1)
    assert receive(second).data == receive(first).data
    assert [row.id for row in numbers(lambda it: it.received == 2).by_channel] == [1, 2]
    first.close()
    third = bus.subscribe("a")
    assert [row.id for row in numbers(lambda it: it.received == 1).by_channel] == [2, 3]
    third.close()


def test_asyncio_channels_are_counted_too(zbus_dir: str) -> None:
    async def main() -> zbus.Numbers:
        async with aio.Bus(dir=zbus_dir) as bus, await bus.subscribe("a") as sub:
            for number in range(300):
                await bus.send("a", "b", "/1", number)
                assert (await sub.channel().receive(timeout=30)).event.data == number
            return await asyncio.to_thread(numbers, lambda it: it.received == it.events == 300)

    assert asyncio.run(main()).channels == 1


# publishing


def test_an_idle_process_publishes_nothing(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    reader = threading.Thread(target=lambda: [*sub])
    reader.start()
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.received == it.events == 1)
    file = member_file()
    with looks() as wait:
        wait(2)
        before = file.stat().st_mtime_ns, publications(file)
        wait(3)
        assert (file.stat().st_mtime_ns, publications(file)) == before
        bus.send("other", "b", "/1", 1)
        numbers(lambda it: it.events == 2)
        assert publications(file) == before[1] + 1
    sub.close()
    reader.join(LIMIT)


def test_numbers_outlive_the_directory(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.events == 1)
    before = member_file()
    shutil.rmtree(before.parent)
    before.parent.mkdir(mode=0o700)
    numbers(lambda it: it.events == 1)
    assert (member_file(), publications(before)) == (before, 1)
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.events == 2)
    assert publications(before) == 2


def test_a_killed_process_leaves_its_last_numbers(spawn: Spawn) -> None:
    worker = spawn("sender").ready()
    worker.tell("a 100")
    assert worker.hear() == {"sent": 100}
    numbers(lambda it: it.events == 100, worker.pid)
    worker.kill()
    [peer] = [peer for peer in zbus.peers() if peer.pid == worker.pid]
    assert not peer.alive
    assert peer.numbers is not None
    assert peer.numbers.events == 100


def test_a_forked_child_publishes_nothing_and_its_parent_goes_on(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1", 1)
    file = member_file()
    numbers(lambda it: it.events == 1)
    child = os.fork()
    if not child:
        try:
            with zbus.Bus() as own:
                own.send("a", "b", "/1", 1)
                own.send("a", "b", "/1", 2)
                numbers(lambda it: it.events == 2)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert file.exists()
    bus.send("a", "b", "/1", 1)
    assert numbers(lambda it: it.events == 2).events == 2


def test_a_closed_bus_has_no_file_left(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        bus.send("a", "b", "/1", 1)
        numbers(lambda it: it.events == 1)
        place = directory(bus)
    assert [*place.glob("*.member")] == []


def test_counters_that_come_while_numbers_are_published_are_counted(bus: zbus.Bus) -> None:
    member = bus._node._member
    with member._lock:  # as the housekeeping thread has it while it publishes
        done = asyncio.run(asyncio.to_thread(member.add, "lost", 5))
    assert done is None
    member.publish(b'{"time":1}')
    assert [peer.counters["lost"] for peer in zbus.peers()] == [5]
