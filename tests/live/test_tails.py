"""Lost tails and heads: each channel learns exactly what it lost, even if no event follows."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zmq

import zbus
from zbus import aio
from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher
from zbus.sending import streams

from .process import LIMIT, Spawn, Worker, receive
from .quiet import read_all

COUNT = 100
SLOW = pytest.mark.parametrize("overflow", ["drop", "latest"])


def account(sub: Any, count: int) -> int:
    """Receive until `count` events have come or are told to be lost; return how many have come."""
    channel, received, deadline = sub.channel(), 0, time.monotonic() + LIMIT
    while received + sub.lost + channel.superseded < count:
        assert time.monotonic() < deadline, f"{received} received, {sub.lost} lost"
        try:
            assert channel.receive(timeout=0.05)[1]
            received += 1
        except zbus.Timeout:
            continue
    assert received + sub.lost + channel.superseded == count
    return received


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def accounted(worker: Worker, count: int) -> tuple[list[int], int]:
    """Have a `listener` account for `count` events; return what it received and how many it lost."""
    worker.tell(count)
    facts = worker.hear()
    return facts["numbers"], sum(last - first + 1 for first, last in facts["gaps"])


def one_by_one(bus: zbus.Bus) -> None:
    for number in range(COUNT):
        bus.send("a", "b", f"/{number}", number)


def in_batches(bus: zbus.Bus) -> None:
    for number in range(COUNT // 10):
        bus.send_many("a", "b", [(f"/{number}/{one}", one) for one in range(10)])


SENDS = pytest.mark.parametrize("send", [one_by_one, in_batches])


@SLOW
@SENDS
def test_a_slow_reader_learns_its_tail_from_a_publisher_at_rest(
    bus: zbus.Bus, zbus_dir: str, overflow: Any, send: Callable[[zbus.Bus], None]
) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        sub = bus.subscribe("a", overflow=overflow, capacity=5)
        send(sender)
        account(sub, COUNT)


@SLOW
@SENDS
def test_a_slow_reader_learns_its_tail_after_the_publisher_has_closed(
    bus: zbus.Bus, zbus_dir: str, overflow: Any, send: Callable[[zbus.Bus], None]
) -> None:
    sub = bus.subscribe("a", overflow=overflow, capacity=5)
    with zbus.Bus(dir=zbus_dir) as sender:
        send(sender)
    account(sub, COUNT)


@SENDS
def test_a_slow_reader_learns_its_tail_while_another_publisher_goes_on(
    bus: zbus.Bus, zbus_dir: str, send: Callable[[zbus.Bus], None]
) -> None:
    with zbus.Bus(dir=zbus_dir) as sender, zbus.Bus(dir=zbus_dir) as other:
        sub = bus.subscribe("a", capacity=5)
        send(sender)
        received, deadline = 0, time.monotonic() + LIMIT
        while received + sum(gap.events for gap in sub.channel().gaps if gap.kind == "b") < COUNT:
            assert time.monotonic() < deadline
            other.send("a", "other", "/1")
            try:
                received += receive(sub, 0.05).kind == "b"
            except zbus.Timeout:
                continue
        assert received + sum(gap.events for gap in sub.channel().gaps if gap.kind == "b") == COUNT


def test_of_two_channels_of_a_process_each_learns_what_it_lost_itself(bus: zbus.Bus, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        slow, quick = bus.subscribe("a", capacity=5), bus.subscribe("a")
        one_by_one(sender)
        assert account(quick, COUNT) == COUNT
        assert account(slow, COUNT) < COUNT
        assert quick.lost == 0


def test_a_reader_that_waits_learns_its_tail(bus: zbus.Bus, zbus_dir: str) -> None:
    told: queue.SimpleQueue[zbus.Gap] = queue.SimpleQueue()
    sub, every = bus.subscribe("a", capacity=5, on_gap=told.put), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        one_by_one(sender)
        account(every, COUNT)
    reader = threading.Thread(target=lambda: [*sub])
    reader.start()
    gap = told.get(timeout=LIMIT)
    assert (gap.first, gap.last) == (6, COUNT)
    sub.close()
    reader.join(LIMIT)


def test_a_channel_that_nobody_reads_learns_its_tail_and_keeps_its_room(bus: zbus.Bus, zbus_dir: str) -> None:
    sub, every = bus.subscribe("a", capacity=2), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(5):
            sender.send("a", "b", "/1", number)
        account(every, 5)
    retained = bus._node._channels._shared.marks  # type: ignore[union-attr]
    until(lambda: retained.lacking(sub.channel()._decoder))
    assert [receive(sub).data for _ in range(2)] == [0, 1]
    until(lambda: sub.lost == 3)
    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(2):
            sender.send("a", "c", "/1", number)
        account(every, 2)
    assert [receive(sub).data for _ in range(2)] == [0, 1]
    assert sub.lost == 3


def test_a_mark_overtakes_nothing_that_has_arrived(bus: zbus.Bus, zbus_dir: str) -> None:
    sub, every = bus.subscribe("a"), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(3):
            sender.send_many("a", "b", [("/1", number)] * 10)
        account(every, 30)
        retained = bus._node._channels._shared.marks  # type: ignore[union-attr]
        assert receive(sub).data == 0
        until(lambda: retained.lacking(sub.channel()._decoder))
        retained.look()
        assert sub.lost == 0
        assert account(sub, 29) == 29


def test_a_channel_that_closes_knows_its_tail_when_it_is_drained(bus: zbus.Bus, zbus_dir: str) -> None:
    sub, every = bus.subscribe("a", capacity=5), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        one_by_one(sender)
        account(every, COUNT)
    retained = bus._node._channels._shared.marks  # type: ignore[union-attr]
    until(lambda: retained.lacking(sub.channel()._decoder))  # it has come; nothing else shows that
    sub.close()
    assert len(list(sub)) + sub.lost == COUNT


def test_what_comes_while_a_channel_closes_is_not_lost(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe("a")
    queue = sub.channel()._source.queue
    taken = queue._take_all
    with zbus.Bus(dir=zbus_dir) as sender:

        def late() -> None:
            with suppress(zmq.Again):
                taken()
            one_by_one(sender)
            sender.close()
            until(queue.marks_at_end)

        monkeypatch.setattr(queue, "_take_all", late)
        sender.send("a", "b", "/1")
        assert receive(sub).path == "/1"
        sub.close()
    assert list(sub) == []
    assert sub.lost == 0


def test_a_mark_is_forgotten_once_every_channel_has_accounted_for_it(bus: zbus.Bus, zbus_dir: str) -> None:
    slow, every = bus.subscribe("a", capacity=5), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        one_by_one(sender)
    account(every, COUNT)
    account(slow, COUNT)
    retained = bus._node._channels._shared.marks  # type: ignore[union-attr]
    until(lambda: not retained.lacking(Decoder(Matcher("a"), None)))


def test_a_late_joiner_learns_nothing_of_what_was_before(bus: zbus.Bus, zbus_dir: str) -> None:
    """Though a mark that another channel still lacks passes it by."""
    slow, every = bus.subscribe("a", capacity=5), bus.subscribe("a")
    with zbus.Bus(dir=zbus_dir) as sender:
        one_by_one(sender)
        account(every, COUNT)
        late = bus.subscribe("a")
        account(slow, COUNT)
        sender.send("a", "b", "/last")
        assert receive(late).path == receive(slow).path == "/last"
    assert late.lost == 0


def test_what_comes_before_another_join_is_told_to_those_who_had_joined(bus: zbus.Bus, zbus_dir: str) -> None:
    """In a topic that is older than both, when not one of those events was received."""
    with zbus.Bus(dir=zbus_dir) as sender, zbus.Bus(dir=zbus_dir) as other:
        sender.send("a", "b", "/early")
        every, sub = bus.subscribe("a"), bus.subscribe("*", capacity=2)
        for number in range(2):
            sender.send("full", "b", "/1", number)
        for number in range(5):
            sender.send("a", "b", "/1", number)
        assert [receive(every).data for _ in range(5)] == [*range(5)]
        other.subscribe("elsewhere")
        sender.send("a", "b", "/1", 5)
        assert receive(every).data == 5
        assert account(sub, 8) == 2
        assert every.lost == 0


def test_an_origin_that_ends_tells_its_tails(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_TOPICS", 3)
    sub = bus.subscribe("a", capacity=2)
    with zbus.Bus(dir=zbus_dir) as sender:
        for kind in range(10):
            for number in range(10):
                sender.send("a", f"k{kind}", "/1", number)
        account(sub, 100)


@pytest.mark.parametrize("closes", [False, True])
def test_a_process_that_was_stopped_learns_what_a_full_publisher_dropped(
    spawn: Spawn, zbus_dir: str, closes: bool
) -> None:
    count = 5_000
    late = spawn("listener", "a", "drop").ready()
    with zbus.Bus(dir=zbus_dir, capacity=50, linger=LIMIT) as bus:
        bus.send("a", "b", "/1", 0)
        accounted(late, 1)
        late.signal(signal.SIGSTOP)
        for number in range(1, count):
            bus.send("a", "b", "/1", number)
        closing = threading.Thread(target=bus.close)
        if closes:
            closing.start()
        late.signal(signal.SIGCONT)
        numbers, lost = accounted(late, count)
        assert lost > 0
        assert len(numbers) + lost == count
        if closes:
            closing.join(LIMIT)
    assert late.end() == 0


def test_a_publisher_that_closes_when_there_is_room_again_tells_its_tail(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    """Though libzmq looks for news of room only once a millisecond: often the room is no older than that."""
    sub = bus.subscribe("a")
    publishers, each = 50, 20
    for _ in range(publishers):
        with zbus.Bus(dir=zbus_dir, capacity=1, linger=LIMIT) as sender:
            for number in range(each):
                sender.send("a", "b", "/1", number)
    assert len(read_all(sub)) + sub.lost == publishers * each


def test_a_publisher_that_is_killed_at_rest_has_told_its_tail(spawn: Spawn, bus: zbus.Bus) -> None:
    slow, every = bus.subscribe("stream", capacity=5), bus.subscribe("stream")
    sender = spawn("publisher", "p", COUNT).ready()
    sender.tell("go")
    assert sender.hear()["sent"] == COUNT
    account(every, COUNT)
    retained = bus._node._channels._shared.marks  # type: ignore[union-attr]
    until(lambda: retained.lacking(slow.channel()._decoder))  # its mark has come; nothing else shows that
    sender.kill()
    account(slow, COUNT)


PROGRAM = f"""
import os, sys, zbus
bus = zbus.Bus()
for number in range({COUNT}):
    bus.send("a", "b", "/1", number)
os._exit(0) if sys.argv[1] == "exit" else os.execv("/bin/true", ["true"])
"""


HOLDING_PROGRAM = f"""
import os, sys, zbus
bus = zbus.Bus(coalesce=60)
for number in range({COUNT}):
    options = {{"timeout": 60}} if number < {COUNT // 2} else {{}}  # such an event is not held
    bus.send("a", "b", "/1", number, **options)
os._exit(0) if sys.argv[1] == "exit" else os.execv("/bin/true", ["true"])
"""


@pytest.mark.parametrize("program", [PROGRAM, HOLDING_PROGRAM], ids=["plain", "coalescing"])
@pytest.mark.parametrize("end", ["exit", "exec"])
def test_a_process_that_ends_hard_tells_its_tail(
    bus: zbus.Bus, zbus_dir: str, end: str, program: str
) -> None:
    sub = bus.subscribe("a", capacity=5)
    subprocess.run([sys.executable, "-c", program, end], check=True, timeout=LIMIT)
    account(sub, COUNT)
    with zbus.Bus(dir=zbus_dir) as other:
        other.subscribe("elsewhere")  # which removes what it has left


def test_a_bus_that_is_opened_at_exit_tells_its_tail(bus: zbus.Bus) -> None:
    sub = bus.subscribe("jobs", capacity=5)
    subprocess.run(
        [sys.executable, "-m", "tests.live.late", "registered_before"],
        check=True,
        timeout=LIMIT,
        env={**os.environ, "LATE_COUNT": str(COUNT)},
    )
    account(sub, 2 * COUNT)


@pytest.mark.parametrize("closes", [False, True])
def test_the_asyncio_twin_tells_and_learns_tails(zbus_dir: str, closes: bool) -> None:
    async def main() -> None:
        async with aio.Bus(dir=zbus_dir) as bus, aio.Bus(dir=zbus_dir) as sender:
            sub = await bus.subscribe("a", capacity=5)
            for number in range(COUNT):
                await sender.send("a", "b", "/1", number)
            if closes:
                await sender.close()
            received, deadline = 0, time.monotonic() + LIMIT
            while received + sub.lost < COUNT:
                assert time.monotonic() < deadline
                try:
                    await sub.channel().receive(timeout=0.05)
                    received += 1
                except zbus.Timeout:
                    continue
            assert received + sub.lost == COUNT

    asyncio.run(main())
