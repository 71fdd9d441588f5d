"""How much waits where: every queue between `send` and `receive` is as long as it should be."""

from __future__ import annotations

import dataclasses
import threading

import pytest

import zbus

from .process import receive
from .quiet import fill


def offered(bus: zbus.Bus, every: zbus.Subscription, count: int) -> None:
    """Send `count` numbered events, and return once the forwarder has offered all to each channel."""
    for number in range(count):
        bus.send("a", "b", f"/{number % 7}", number)
    for number in range(count):
        assert receive(every).data == number
    # The forwarder hands an event to one channel after the other, and only then takes the next.
    with bus.subscribe("passed") as passed:
        bus.send("passed", "b", "/1")
        receive(passed)


@pytest.mark.parametrize(("capacity", "room"), [(1, 2), (2, 2), (3, 3), (100, 100)])
def test_a_channel_holds_as_many_events_as_its_capacity_says(bus: zbus.Bus, capacity: int, room: int) -> None:
    every = bus.subscribe("a")
    sub = bus.subscribe("a", capacity=capacity)
    offered(bus, every, 300)
    assert [receive(sub).data for _ in range(room)] == list(range(room))
    with pytest.raises(zbus.Timeout):
        sub.channel().receive(timeout=0)
    bus.send("a", "b", "/last", 300)
    assert receive(sub).data == 300
    assert sub.lost == 300 - room


@pytest.mark.parametrize("capacity", [1, 2, 3, 100])
@pytest.mark.parametrize("end", ["sub", "bus"])
def test_a_full_channel_that_closes_keeps_all_that_it_holds(bus: zbus.Bus, capacity: int, end: str) -> None:
    every = bus.subscribe("a")
    sub = bus.subscribe("a", capacity=capacity)
    offered(bus, every, 300)
    (sub if end == "sub" else bus).close()
    assert [evt.data for evt in sub] == list(range(max(2, capacity)))


def test_a_channel_that_has_been_read_in_part_keeps_the_rest_when_it_closes(bus: zbus.Bus) -> None:
    every = bus.subscribe("a")
    sub = bus.subscribe("a", capacity=50)
    offered(bus, every, 50)
    assert [receive(sub).data for _ in range(20)] == list(range(20))
    sub.close()
    assert [evt.data for evt in sub] == list(range(20, 50))


@dataclasses.dataclass
class Held:
    """Data whose check waits: the thread that reads ahead stands still meanwhile."""

    number: int

    def __post_init__(self) -> None:
        reached.set()
        assert go_on.wait(30)


reached, go_on = threading.Event(), threading.Event()


def test_the_capacity_of_latest_is_of_keys_and_not_of_what_its_thread_has_yet_to_read(bus: zbus.Bus) -> None:
    reached.clear()
    go_on.clear()
    every = bus.subscribe("a")
    sub = bus.subscribe("a", overflow="latest", capacity=2, type=Held)
    bus.send("a", "b", "/key", {"number": 0})
    assert reached.wait(10)
    for number in range(1, 500):
        bus.send("a", "b", "/key", {"number": number})
    for number in range(500):
        assert receive(every).data == {"number": number}
    go_on.set()
    while (data := receive(sub).data) != Held(499):
        assert isinstance(data, Held)
    assert sub.lost == 0


def accepted(bus: zbus.Bus, size: int, at_most: int) -> int:
    """Send events of `size` bytes until there is no room; return how many were accepted."""
    data = "x" * size

    def send(number: int) -> None:
        assert number <= at_most
        bus.send("a", "b", "/1", data, timeout=0.1)

    return fill(send)


def test_a_publisher_queues_a_thousand_events_for_a_block_subscriber_and_not_its_whole_capacity(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    full = bus.subscribe("a", overflow="block", capacity=10)
    with zbus.Bus(dir=zbus_dir, capacity=65_536, linger=0) as sender:
        assert 900 <= accepted(sender, 16_384, 1_300) < 1_200
        full.close()


def test_each_queue_on_the_way_to_a_block_subscriber_has_its_capacity(bus: zbus.Bus, zbus_dir: str) -> None:
    """The publisher's, the forwarder's, the channel's; the kernel has no room for two such events.

    In the first two each takes two places, since it is announced.
    """
    capacity = 50
    full = bus.subscribe("a", overflow="block", capacity=capacity)
    with zbus.Bus(dir=zbus_dir, capacity=capacity, linger=0) as sender:
        assert 2 * capacity <= accepted(sender, 300_000, 5 * capacity) <= 2 * capacity + 5
        full.close()


def test_what_a_full_subscriber_refuses_takes_no_number(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=5)
    sent = 0
    with zbus.Bus(dir=zbus_dir, capacity=5, send_timeout=0.02) as sender:
        for _ in range(3):
            with pytest.raises(zbus.Timeout):
                while True:
                    sender.send("a", "b", "/1", [sent, "x" * 300_000])
                    sent += 1
            with pytest.raises(zbus.Timeout):
                sender.send_many("a", "b", [("/1", "x" * 300_000)])
            for _ in range(5):
                receive(sub)
        while receive(sub).data[0] != sent - 1:
            pass
        sender.send("a", "b", "/1", "last")
        evt = receive(sub)
    assert (evt.data, evt.seq, sub.lost) == ("last", sent + 1, 0)
