"""Strict joins: no first message is lost, in either direction, and leaving costs nobody a time-out."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus.roster.directory import Roster, new_id

from .process import Spawn
from .silent import Silent


@pytest.mark.timeout(180)
def test_a_thousand_joins_against_a_publisher_at_full_speed(spawn: Spawn, zbus_dir: str) -> None:
    progress = f"{zbus_dir}/progress"
    publisher = spawn("full_speed", progress).ready()
    joiners = [spawn("joiner", progress, 250) for _ in range(4)]
    reports = [joiner.ready().hear(150) for joiner in joiners]
    assert sum(report["joins"] for report in reports) == 1000
    assert [report["late"] for report in reports] == [[], [], [], []]
    publisher.tell("stop")
    report = publisher.hear()
    assert report["join_timeouts"] == 0
    assert report["worst_ms"] < 500  # 10 to 50 on an idle machine; a join that timed out takes 1,000


def test_200_new_processes_send_one_event_and_exit(spawn: Spawn, zbus_dir: str) -> None:
    buses = [zbus.Bus(dir=zbus_dir) for _ in range(3)]
    subs = [bus.subscribe("jobs") for bus in buses]
    forking = [spawn("send_once_each", first, 60) for first in (20, 80, 140)]
    for number in range(20):
        assert spawn("send_once", number).end() == 0
    for worker in forking:
        assert worker.end() == 0
    for sub in subs:
        numbers = sorted(sub.channel().receive(timeout=30)[0].data for _ in range(200))
        assert numbers == list(range(200))
        assert sub.lost == 0
    for bus in buses:
        bus.close()


def test_a_running_publisher_reaches_a_new_subscriber_with_its_next_event(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/before")
        for number in range(50):
            with zbus.Bus(dir=zbus_dir) as receiver:
                sub = receiver.subscribe("a")
                sender.send("a", "b", "/after", number)
                evt, ok = sub.channel().receive(timeout=30)
                assert ok
                assert (evt.path, evt.data) == ("/after", number)


def test_the_first_event_of_a_new_publisher_reaches_everybody(bus: zbus.Bus, zbus_dir: str) -> None:
    subs = [bus.subscribe("**"), bus.subscribe("a", "b"), bus.subscribe("a", overflow="block")]
    for number in range(20):
        with zbus.Bus(dir=zbus_dir) as sender:
            sender.send("a", "b", "/first", number)
        for sub in subs:
            assert sub.channel().receive(timeout=30)[0].data == number


def test_a_peer_that_leaves_while_it_is_awaited_costs_no_timeout(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=30.0, send_timeout=30.0) as bus:
        silent.add()
        threading.Timer(0.05, silent.leave).start()
        start = time.monotonic()
        bus.send("a", "b", "/1")
        assert time.monotonic() - start < 5


def test_a_peer_that_is_killed_while_it_is_awaited_costs_no_timeout(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=30.0, send_timeout=30.0) as bus:
        silent.add()
        threading.Timer(0.05, silent.die).start()
        start = time.monotonic()
        bus.send("a", "b", "/1")
        assert time.monotonic() - start < 5
        assert not silent.roster.entries()


def test_a_mute_peer_is_awaited_once_counted_and_then_left_behind(
    zbus_dir: str, silent: Silent, caplog: pytest.LogCaptureFixture
) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=2.0) as bus:
        sub = bus.subscribe("a")
        silent.add()
        for number in range(3):
            start = time.monotonic()
            bus.send("a", "b", "/1", number)
            took = time.monotonic() - start
            assert took >= 2.0 if number == 0 else took < 2.0
            assert sub.channel().receive(timeout=30)[0].data == number
        assert [peer.counters["join_timeouts"] for peer in zbus.peers() if peer.role == "member"] == [1]
        assert sum("did not finish joining" in record.message for record in caplog.records) == 1
        silent.leave()


def test_a_block_peer_that_has_not_joined_counts_as_full(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=0.1) as bus:
        sub = bus.subscribe("a")
        silent.add("block")
        with pytest.raises(zbus.Timeout, match="has not finished joining") as caught:
            bus.send("a", "b", "/1", timeout=0.3)
        assert caught.value.retryable
        with pytest.raises(zbus.Timeout):
            sub.channel().receive(timeout=0)  # it went to nobody
        silent.leave()
        bus.send("a", "b", "/1", timeout=5.0)
        assert sub.channel().receive(timeout=30)[1]


def test_a_thousand_dead_entries_are_cleared_by_the_next_joins_and_the_living_stay(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as living:
        sub = living.subscribe("a")
        roster = Roster(zbus_dir, "default")
        for _ in range(1000):
            dead = socket.socket(socket.AF_UNIX)
            ident = new_id()
            dead.bind(str(roster.socket_path(ident)))
            dead.listen()
            dead.close()
            Path(roster.path, f"{ident}.1.drop").write_text("{}")
        roster.touch()
        roster.close()
        with zbus.Bus(dir=zbus_dir) as newcomer:
            newcomer.send("a", "b", "/1")
        assert sub.channel().receive(timeout=30)[1]
        for _ in range(100):  # each cleans for a moment only
            if len(left := list(Path(zbus_dir, "v1", "default").glob("*.sock"))) == 1:
                break
            zbus.Bus(dir=zbus_dir).close()
        assert len(left) == 1


def test_a_channel_that_closes_takes_no_sentinel_along(bus: zbus.Bus, zbus_dir: str) -> None:
    """Each publisher that comes later would wait for it."""
    first, second = bus.subscribe("a"), bus.subscribe("a")
    second.close()
    with zbus.Bus(dir=zbus_dir, join_timeout=30.0) as sender:
        start = time.monotonic()
        sender.send("a", "b", "/1", 1)
        assert time.monotonic() - start < 10
        assert first.channel().receive(timeout=30)[0].data == 1


def test_what_is_lost_as_soon_as_the_token_is_written_is_counted(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that settles before `subscribe` returns sends what is meant for the channel, too."""
    announce = Roster.announce
    with zbus.Bus(dir=zbus_dir) as sender:
        every = bus.subscribe("a")
        sender.send("a", "b", "/1", 0)
        assert every.channel().receive(timeout=30)[0].data == 0  # so it is not on its way any more

        def at_once(roster: Roster, *arguments: Any) -> Any:
            told = announce(roster, *arguments)
            for number in range(1, 6):
                sender.send("a", "b", "/1", number)
            return told

        monkeypatch.setattr(Roster, "announce", at_once)
        sub = bus.subscribe("a", capacity=2)
        for number in range(1, 6):
            assert every.channel().receive(timeout=30)[0].data == number
        assert [sub.channel().receive(timeout=30)[0].data for _ in range(2)] == [1, 2]
        sender.send("a", "b", "/1", 6)
        assert sub.channel().receive(timeout=30)[0].data == 6
        assert sub.lost == 3
