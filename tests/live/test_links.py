"""What a publisher does about each entry of the roster, as a subscriber made by hand sees it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

import zbus
from zbus.sending import join_wait

from .process import receive
from .raw import RawSubscriber, joined, sentinel, touch


@pytest.fixture
def raw(bus: zbus.Bus, zbus_dir: str) -> Iterator[RawSubscriber]:
    made = RawSubscriber(zbus_dir, b"a\0")
    yield made
    made.close()


def number(frame: bytes) -> int:
    return int(frame.split(b"\0", 4)[4])


def join_timeouts() -> int:
    mine = [peer for peer in zbus.peers() if peer.role == "member" and peer.pid == os.getpid()]
    return sum(peer.counters["join_timeouts"] for peer in mine)


def test_whoever_leaves_the_roster_is_let_go_though_it_listens_on(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    other = bus.subscribe("a")  # for it, everything is sent
    raw.join(1)
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1", 1)
        raw.withdraw()
        sender.send("a", "b", "/1", 2)
        sender.send("a", "b", "/1", 3)
        raw.join(2)
        sender.send("a", "b", "/1", 4)
        sender.send("a", "b", "/1", 5)
        assert [number(raw.receive()) for _ in range(3)] == [1, 4, 5]
        assert [receive(other).data for _ in range(5)] == [1, 2, 3, 4, 5]


def test_an_ingress_gets_each_event_once_whatever_its_epoch(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        for epoch in range(1, 6):
            raw.join(epoch)
            sender.send("a", "b", "/1", epoch)
        sender.send("a", "b", "/1", 6)
    assert [number(raw.receive()) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert raw.frames.empty()


def test_an_older_sentinel_that_comes_later_takes_nothing_back(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    """A new connection gets them in byte order: 10 before 9."""
    raw.show(9)
    raw.join(10)
    with zbus.Bus(dir=zbus_dir, join_timeout=0.5) as sender:
        sender.send("a", "b", "/1", 0)
        assert number(raw.receive()) == 0
        raw.unsubscribe(sentinel(raw.id, 9))
        for round_trip in range(1, 30):
            touch(raw.directory)
            sender.send("a", "b", "/1", round_trip)
            assert number(raw.receive()) == round_trip
        assert join_timeouts() == 0


def test_a_new_epoch_is_awaited_whether_the_last_was_given_up_or_not(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all the time there is: more than the half of it that a busy machine is good for."""
    monkeypatch.setattr(join_wait, "_SHORT_FOR_SECONDS", 0.0)
    raw.announce(1)
    with zbus.Bus(dir=zbus_dir, join_timeout=2.0) as sender:
        sender.send("a", "b", "/1", 1)
        assert join_timeouts() == 1
        for epoch in (2, 3):
            raw.announce(epoch)
            topics = f"new{epoch}\0".encode(), sentinel(raw.id, epoch)
            later = threading.Timer(1.2, raw.subscribe, topics)
            later.start()
            sender.send(f"new{epoch}", "b", "/1")
            later.join(10)
            while not raw.receive().startswith(topics[0]):  # else a mark: what the first epoch missed
                pass
        assert join_timeouts() == 1


def test_the_end_of_the_last_sentinel_is_that_of_the_connection(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    """A publisher waits until the subscriptions have come back."""
    raw.join(1)
    with zbus.Bus(dir=zbus_dir, join_timeout=20) as sender:
        sender.send("a", "b", "/1", 0)
        raw.unsubscribe(sentinel(raw.id, 1))
        later = threading.Timer(1.0, raw.show, [1])
        later.start()
        slowest = 0.0
        while later.is_alive():
            touch(raw.directory)
            start = time.monotonic()
            sender.send("a", "b", "/1", 0)
            slowest = max(slowest, time.monotonic() - start)
        assert slowest > 0.2


def test_a_subscriber_that_shows_more_than_it_has_announced_is_not_awaited_again(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    """Every sentinel is recorded, awaited or not."""
    raw.join(1)
    with zbus.Bus(dir=zbus_dir, join_timeout=0.5) as sender:
        sender.send("a", "b", "/1", 1)
        raw.show(2)
        for _ in range(20):
            touch(raw.directory)
            sender.send("a", "b", "/1", 1)
        raw.announce(2)
        sender.send("a", "b", "/1", 2)
        while number(raw.receive()) != 2:
            pass
        assert join_timeouts() == 0


def test_what_is_no_sentinel_is_passed_over(bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber) -> None:
    """Anybody may subscribe to anything: a number of too many digits, for one."""
    own = b"\xff" + raw.id.encode()
    raw.subscribe(b"\xff", own, own + b".", own + b"/1", own + b".x", own + b"." + b"9" * 5_000)
    raw.join(1)
    with zbus.Bus(dir=zbus_dir, join_timeout=10) as sender:
        sender.send("a", "b", "/1", 1)
        assert number(raw.receive()) == 1
        assert join_timeouts() == 0


def test_two_subscribers_are_both_awaited(bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber) -> None:
    with joined(zbus_dir, b"a\0") as quick, zbus.Bus(dir=zbus_dir, join_timeout=20) as sender:
        raw.announce(1)
        start = time.monotonic()
        threading.Timer(0.2, raw.show, [1]).start()
        sender.send("a", "b", "/1", 1)
        assert time.monotonic() - start > 0.1
        assert number(quick.receive()) == number(raw.receive()) == 1
