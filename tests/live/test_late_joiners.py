"""Joiners that do not answer: what they cost, what they are told once they are back, and who is never one."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import zbus
from zbus.sending import join_wait, tails

from .process import Spawn, Worker, receive
from .quiet import fill
from .silent import Silent


def counted(worker: Worker, least: int) -> tuple[list[int], list[list[int]]]:
    """Have a `listener` tell what it received once it has accounted for `least` events; and its gaps."""
    worker.tell(least)
    facts = worker.hear()
    return facts["numbers"], facts["gaps"]


def heard(worker: Worker) -> dict[str, Any] | None:
    """Return what a worker told, if it has."""
    try:
        return worker.hear(0.02)
    except queue.Empty:
        return None


def missed(gaps: list[list[int]]) -> list[int]:
    """Return the numbers in gaps."""
    return sorted(number for first, last in gaps for number in range(first, last + 1))


@contextmanager
def stopped(worker: Worker) -> Iterator[None]:
    """Stop a process, all its threads, for the time of a block."""
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


@pytest.mark.parametrize("overflow", ["drop", "latest"])
def test_what_a_stopped_joiner_missed_is_told_to_it_exactly(
    spawn: Spawn, zbus_dir: str, overflow: str
) -> None:
    """Though the topic is older than the join, and the publisher has settled again since."""
    with zbus.Bus(dir=zbus_dir, join_timeout=0.2) as bus, zbus.Bus(dir=zbus_dir) as other:
        bus.send("a", "b", "/before", 1)
        late = spawn("listener", "a", overflow).ready()
        with stopped(late):
            for number in range(2, 5):
                bus.send("a", "b", f"/{number}", number)
            sub = other.subscribe("a")
            for number in range(5, 8):
                bus.send("a", "b", f"/{number}", number)
            assert [receive(sub).data for _ in range(3)] == [5, 6, 7]
        numbers, gaps = counted(late, 6)
        assert numbers == []
        assert missed(gaps) == [*range(2, 8)]
        bus.send("a", "b", "/8", 8)
        assert counted(late, 7) == ([8], gaps)
        assert receive(sub).data == 8
        assert sub.lost == 0
        assert late.end() == 0


def test_each_of_several_stopped_joiners_is_told_what_it_missed_itself(spawn: Spawn, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=0.2) as bus, ExitStack() as stops:
        bus.send("a", "b", "/before", 1)
        late = []
        for number in range(2, 6):
            late.append(spawn("listener", "a", "drop").ready())
            stops.enter_context(stopped(late[-1]))
            bus.send("a", "b", f"/{number}", number)
        stops.close()
        for first, worker in enumerate(late, 2):
            numbers, gaps = counted(worker, 6 - first)
            assert numbers == []
            assert missed(gaps) == [*range(first, 6)]
            assert worker.end() == 0


def test_a_publisher_that_closes_tells_joiners_that_are_back(
    spawn: Spawn, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "_REST_SECONDS", 1000.0)
    with zbus.Bus(dir=zbus_dir, join_timeout=0.2, linger=20) as bus:
        bus.send("a", "b", "/before", 1)
        late = spawn("listener", "(a|c)", "drop").ready()
        with stopped(late):
            bus.send("a", "b", "/2", 2)
        late.tell(1)
        while (facts := heard(late)) is None:  # until something has come, so that it is surely back
            bus.send("c", "d", "/c", 0)
        numbers, gaps = facts["numbers"], facts["gaps"]
        assert [2, 2] not in gaps
    late.tell("e")  # it has joined once more, so whatever the publisher handed over has come
    assert late.hear()["ready"]
    while [2, 2] not in gaps:  # more of the others may come first
        known = len(numbers) + len(missed(gaps))
        numbers, gaps = counted(late, known + 1)
        assert len(numbers) + len(missed(gaps)) > known
    assert late.end() == 0


def test_a_second_channel_that_is_left_out_is_told_and_the_first_loses_nothing(
    spawn: Spawn, zbus_dir: str
) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=0.2) as bus:
        first = spawn("listener", "a", "drop").ready()
        bus.send("a", "b", "/1", 1)
        first.tell("c")  # subscribe to another topic too
        assert first.hear()["ready"]
        with stopped(first):
            bus.send("c", "d", "/1", 101)
            bus.send("a", "b", "/2", 2)
        numbers, gaps = counted(first, 3)
        assert numbers[:2] == [1, 2]
        # Of the second topic, unless its subscription was quicker than the signal.
        assert gaps == [[1, 1]] if len(numbers) == 2 else numbers == [1, 2, 101]
        assert first.end() == 0


def test_fourteen_joiners_that_are_stopped_cost_a_publisher_its_timeout_once(
    spawn: Spawn, zbus_dir: str
) -> None:
    workers = [spawn("subscribe_when_told", "a", "drop").ready() for _ in range(14)]
    with zbus.Bus(dir=zbus_dir, join_timeout=3.0) as bus, ExitStack() as stops:
        sub = bus.subscribe("a")
        slow: list[float] = []
        for worker in workers:
            worker.tell("subscribe")
            assert worker.hear()["subscribed"]
            stops.enter_context(stopped(worker))
            begun = time.monotonic()
            bus.send("a", "b", "/1")
            slow.append(time.monotonic() - begun)
        assert slow[0] >= 3.0
        assert sum(slow[1:]) < 13 * 1.5
        for _ in workers:
            receive(sub)
        stops.close()
        for worker in workers:
            assert worker.end() == 0


def test_silent_listeners_that_keep_coming_cost_a_moment_each(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=3.0) as bus:
        took = []
        for _ in range(10):
            silent.add()
            begun = time.monotonic()
            bus.send("a", "b", "/1")
            took.append(time.monotonic() - begun)
        assert took[0] >= 3.0
        assert sum(took[1:]) < 9 * 1.5


def test_a_block_listener_that_runs_and_never_answers_is_given_up(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=0.1, send_timeout=2.0) as bus:
        sub = bus.subscribe("a", overflow="block")
        silent.add("block")
        begun = time.monotonic()
        while True:
            try:
                bus.send("a", "b", "/1")
            except zbus.Timeout as error:
                assert "has not finished joining" in error.message
            else:
                break
        assert time.monotonic() - begun >= 2.0
        begun = time.monotonic()
        bus.send("a", "b", "/2")
        assert time.monotonic() - begun < 2.0
        assert [receive(sub).path for _ in range(2)] == ["/1", "/2"]


def test_a_stopped_block_joiner_holds_its_publishers_which_say_who_it_is(spawn: Spawn, zbus_dir: str) -> None:
    late = spawn("listener", "a", "block").ready()
    with zbus.Bus(dir=zbus_dir, join_timeout=0.1, send_timeout=0.5) as bus:
        with stopped(late):
            for _ in range(3):
                with pytest.raises(zbus.Timeout, match=f"process {late.pid}, stopped") as caught:
                    bus.send("a", "b", "/lost", 0, timeout=1.0)
                assert caught.value.retryable
        for number in range(1, 4):
            bus.send("a", "b", f"/{number}", number, timeout=20)
        assert counted(late, 3) == ([1, 2, 3], [])
        assert late.end() == 0


def test_closing_does_not_wait_for_a_listener_that_never_answered(zbus_dir: str, silent: Silent) -> None:
    bus = zbus.Bus(dir=zbus_dir, join_timeout=0.1, linger=60)
    silent.add()
    bus.send("a", "b", "/1")
    begun = time.monotonic()
    bus.close()
    assert time.monotonic() - begun < 30


def test_a_send_keeps_to_its_timeout_whoever_joins(zbus_dir: str, silent: Silent) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=30) as bus:
        silent.add()
        begun = time.monotonic()
        with pytest.raises(zbus.Timeout, match="has not finished joining"):
            bus.send("a", "b", "/1", timeout=0.2)
        assert 0.2 <= time.monotonic() - begun < 5


def test_a_joiner_on_a_machine_that_is_busy_is_waited_for(
    zbus_dir: str, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its process waited for a CPU, until the send itself has no more time."""
    monkeypatch.setattr(join_wait, "waits_for_cpu", lambda *_: True)
    with zbus.Bus(dir=zbus_dir, join_timeout=0.1) as bus:
        silent.add()
        with pytest.raises(zbus.Timeout, match="has not finished joining"):
            bus.send("a", "b", "/1", timeout=1.5)
        monkeypatch.undo()
        bus.send("a", "b", "/1", timeout=20)


def test_a_full_block_subscriber_holds_a_publisher_that_is_new_and_loses_nothing(
    zbus_dir: str, bus: zbus.Bus
) -> None:
    """Its forwarder, blocked, passes no subscriptions: it looks silent, and is not to be given up."""
    sub = bus.subscribe("a", overflow="block", capacity=1)
    with zbus.Bus(dir=zbus_dir) as first:
        sent = fill(lambda number: first.send("a", "b", "/1", number, timeout=0.1))
        with zbus.Bus(dir=zbus_dir, join_timeout=0.1, send_timeout=0.1) as second:
            for _ in range(5):
                with pytest.raises(zbus.Timeout, match="has not finished joining"):
                    second.send("a", "b", "/2", -1)
            assert [receive(sub).data for _ in range(sent)] == [*range(1, sent + 1)]
            second.send("a", "b", "/2", sent, timeout=20)
            assert receive(sub).data == sent
    assert sub.lost == 0


@pytest.mark.timeout(60)
def test_a_send_to_a_full_subscriber_ends_however_busy_the_machine_is(
    zbus_dir: str, bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on one where this process never gets all of the CPU that it asks for."""
    monkeypatch.setattr("zbus.sending.join_wait.waits_for_cpu", lambda *_: True)
    sub = bus.subscribe("a", overflow="block", capacity=1)
    with zbus.Bus(dir=zbus_dir) as first:
        fill(lambda number: first.send("a", "b", "/1", number, timeout=0.1))
    second = zbus.Bus(dir=zbus_dir, join_timeout=0.1, send_timeout=0.1)
    with second, pytest.raises(zbus.Timeout, match="has not finished joining"):
        second.send("a", "b", "/2")
    sub.close()
