"""What `coalesce` holds is not lost: not by a close, an exit, a fork, an interrupt, or by other threads."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest

import zbus
from zbus import aio

from .process import receive
from .quiet import fill, read_all
from .test_coalesce import LONG, ROWS, restless
from .test_flush import end
from .test_fork import in_child, refused
from .test_interrupts import Interrupts, interrupts

__all__ = ["interrupts", "restless"]

INTERRUPTS = 300
MOST_WAITING = 20_000  # so many events at most that nobody has read
ENDS = (
    "close",
    "the end of the program",
    "an error",
    "os._exit",
    "exec",
    "a handler of SIGTERM",
    "SIGKILL after a flush",
)


def fill_up(bus: zbus.Bus) -> int:
    """Send to a `block` subscriber until it is full and 128 more are held; return how many were accepted."""
    sent = fill(lambda number: bus.send("a", "b", "/1", number, timeout=0.05))
    for number in range(sent + 1, sent + ROWS + 1):
        bus.send("a", "b", "/1", number)
    return sent + ROWS


@pytest.mark.parametrize("overflow", ["drop", "block"])
@pytest.mark.parametrize("how", ENDS)
def test_an_end_of_the_process_sends_what_is_held(
    bus: zbus.Bus, zbus_dir: str, how: str, overflow: zbus.Overflow
) -> None:
    sub = bus.subscribe("jobs", overflow=overflow)
    code = end("held", how, 300)
    assert code == {"an error": 1, "SIGKILL after a flush": -signal.SIGKILL}.get(how, 0)
    assert [receive(sub).data for _ in range(300)] == list(range(300))
    zbus.Bus(dir=zbus_dir).close()  # clears away what those left that did not close


def test_an_end_of_an_event_loop_sends_what_is_held(bus: zbus.Bus) -> None:
    sub = bus.subscribe("jobs")
    assert end("held_by_the_twin", 300) == 0
    assert [receive(sub).data for _ in range(300)] == list(range(300))


class Alarms(logging.Handler):
    """Sends what zbus logs over a bus, as a user may."""

    def __init__(self, bus: zbus.Bus) -> None:
        super().__init__()
        self.bus = bus

    def emit(self, record: logging.LogRecord) -> None:
        self.bus.send("alarms", "warned", "/here", record.getMessage())


def test_close_says_what_it_could_not_hand_over(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=10)
    other = bus.subscribe("a")
    with zbus.Bus("alarms") as calm:
        alarms = calm.subscribe("alarms")
        handler = Alarms(calm)
        logging.getLogger("zbus").addHandler(handler)
        try:
            with zbus.Bus(coalesce=LONG, linger=0.2) as sender:
                sent = fill_up(sender)
        finally:
            logging.getLogger("zbus").removeHandler(handler)
        assert f"{ROWS} events to a b could not be handed over" in receive(alarms).data
    for one in (sub, other):
        got = [evt.data for evt in read_all(one)]
        assert got == list(range(1, len(got) + 1))
        assert len(got) <= sent - ROWS


def test_close_waits_for_a_slow_subscriber(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=10)
    sender = zbus.Bus(coalesce=LONG, linger=60)
    sent = fill_up(sender)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(receive(sub).data for _ in range(sent)))
    closer = threading.Thread(target=sender.close)
    closer.start()
    while not sender.closed:
        pass
    reader.start()
    closer.join(60)
    reader.join(60)
    assert got == list(range(1, sent + 1))


def test_a_flush_that_cannot_hand_over_says_who_is_in_the_way(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=10)
    with zbus.Bus(coalesce=LONG) as sender:
        sent = fill_up(sender)
        with pytest.raises(zbus.Timeout, match=r"within 0\.2 s") as caught:
            sender.flush(0.2)
        assert caught.value.details["subscribers"]
        reader = threading.Thread(target=lambda: [receive(sub) for _ in range(sent)])
        reader.start()
        sender.flush(60)
        reader.join(60)
        assert not reader.is_alive()


def test_a_child_drops_its_copy_and_the_parent_keeps_what_is_held(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    with zbus.Bus(coalesce=LONG) as sender:
        for number in range(10):
            sender.send("a", "b", "/1", number)

        def work() -> None:
            refused(lambda: sender.send("a", "b", "/1", "child"))
            refused(sender.flush)
            sender.close()

        in_child(work)
        sender.send("a", "b", "/1", 10)
    assert [receive(sub).data for _ in range(11)] == list(range(11))
    assert not read_all(sub)


def test_threads_lose_nothing_and_keep_their_order(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block")
    count, threads = 5_000, 8
    with zbus.Bus(coalesce=0.01) as sender:

        def send(thread: int) -> None:
            for number in range(count):
                sender.send("a", "own" + str(thread) if number % 1000 < 100 else "all", f"/{thread}", number)

        workers = [threading.Thread(target=send, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        got = [receive(sub, 60) for _ in range(count * threads)]
        for worker in workers:
            worker.join()
    for thread in range(threads):
        assert [evt.data for evt in got if evt.path == f"/{thread}"] == list(range(count))
    for kind in {evt.kind for evt in got}:
        numbers = [evt.seq for evt in got if evt.kind == kind]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_an_interrupt_neither_loses_nor_repeats_what_was_accepted(
    bus: zbus.Bus, interrupts: Interrupts, overflow: zbus.Overflow
) -> None:
    small = {"capacity": 50} if overflow == "block" else {}
    sub = bus.subscribe("a", overflow=overflow, **small)
    also = bus.subscribe("a")  # a link of the other kind, or a second one of the same
    begun = 0
    doubtful: set[int] = set()
    got: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not (ended.is_set() and got and got[-1] == begun):
            got.append(receive(sub, 60).data)

    reader = threading.Thread(target=read)
    reader.start()
    with zbus.Bus(coalesce=0.02) as sender:

        def send() -> None:
            nonlocal begun
            while begun - len(got) > MOST_WAITING:
                time.sleep(0.001)
            begun += 1
            sender.send("a", "b", "/1", begun)

        send()  # who listens is found out, undisturbed
        for _ in range(INTERRUPTS):
            interrupts.repeat(send)
            doubtful.add(begun)
        ended.set()
        begun += 1
        sender.send("a", "b", "/1", begun, timeout=60)
        sender.flush(60)
        reader.join(60)
    assert not reader.is_alive()
    assert sub.lost == 0
    times = Counter(got)
    assert not [number for number, often in times.items() if often > 1]
    missing = set(range(1, begun + 1)) - set(times)
    assert missing <= doubtful
    assert got == sorted(got)
    also.close()


def test_a_signal_handler_may_flush_unless_its_thread_sends(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    with zbus.Bus(coalesce=LONG) as sender:
        for number in range(10):
            sender.send("a", "b", "/1", number)
        before = signal.signal(signal.SIGUSR1, lambda *_: sender.flush(30))
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert [receive(sub).data for _ in range(10)] == list(range(10))


async def test_a_send_of_the_twin_that_is_cancelled_went_to_nobody(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=10)
    async with aio.Bus(coalesce=LONG) as sender:
        sent = 0
        while True:
            task = asyncio.create_task(sender.send("a", "b", "/1", sent, timeout=60))
            done, _ = await asyncio.wait([task], timeout=0.2)
            if not done:
                task.cancel()
                break
            sent += 1
        for number in range(sent, sent + ROWS):
            await sender.send("a", "b", "/1", number)
        waiting = asyncio.create_task(sender.send("a", "b", "/1", "cancelled"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        sent += ROWS
        got: list[Any] = []
        reader = threading.Thread(target=lambda: got.extend(receive(sub).data for _ in range(sent)))
        reader.start()
        await sender.flush(60)
        reader.join(60)
    assert got == list(range(sent))


async def test_the_twin_sends_what_is_held_in_time(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    async with aio.Bus(coalesce=0.01) as sender:
        for number in range(1000):
            await sender.send("a", "b", "/1", number)
        got = await asyncio.to_thread(lambda: [receive(sub).data for _ in range(1000)])
    assert got == list(range(1000))


def test_a_policy_is_asked_once_for_a_topic_and_denies_it_each_time(zbus_dir: str) -> None:
    asked: list[tuple[str, str]] = []

    def policy(action: str, system: str) -> bool:
        asked.append((action, system))
        return system == "a"

    with zbus.Bus(policy=policy, coalesce=LONG) as sender:
        for number in range(10):
            sender.send("a", "b", "/1", number)
            with pytest.raises(zbus.Invalid, match="not allowed"):
                sender.send("secret", "b", "/1")
        for _ in range(10):
            with pytest.raises(zbus.Invalid, match="not allowed"):
                sender.send("secret", "b", "/1")
    assert asked.count(("events.send", "a")) == 1
