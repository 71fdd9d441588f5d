"""Marks on the wire: when a publisher sends them, to whom, and what they say."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator

import pytest

import zbus
from zbus.protocol.wire import Stamp
from zbus.sending import tails

from .process import LIMIT, Spawn
from .quiet import quiet
from .raw import TWIN, RawSubscriber, joined, stamp_of, touch


@pytest.fixture
def raw(zbus_dir: str, bus: zbus.Bus) -> Iterator[RawSubscriber]:
    with joined(zbus_dir, b"") as made:
        yield made


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers do not rest, so that marks come for other reasons only."""
    monkeypatch.setattr(tails, "_REST_SECONDS", 1000.0)


def next_mark(raw: RawSubscriber) -> Stamp:
    """Return the stamp of the next mark; its twin must follow."""
    mark = raw.marks.get(timeout=LIMIT)
    assert raw.twins.get(timeout=LIMIT) == TWIN + mark
    return stamp_of(mark)


def rest_of(waiting: queue.SimpleQueue[bytes]) -> list[bytes]:
    """Return what else has come, once nothing is on its way."""
    while not quiet():
        pass
    return [waiting.get() for _ in range(waiting.qsize())]


def test_a_publisher_at_rest_tells_which_number_is_next(zbus_dir: str, raw: RawSubscriber) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(3):
            sender.send("a", "b", "/1", number)
        last = [stamp_of(raw.receive()) for _ in range(3)][-1]
        mark = next_mark(raw)
        assert mark[:5] == last._replace(seq=4)[:5]
        assert mark.time >= last.time
        sender.send_many("a", "b", [("/1", 1), ("/1", 2)])
        assert next_mark(raw).seq == 6
    assert rest_of(raw.marks) == []


def test_a_publisher_that_closes_tells_which_number_is_next(
    zbus_dir: str, raw: RawSubscriber, restless: None
) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1")
        sender.send("a", "c", "/1")
        frames = [stamp_of(raw.receive()) for _ in range(2)]
        assert rest_of(raw.marks) == []
    assert [next_mark(raw)[:5] for _ in range(2)] == [frame._replace(seq=2)[:5] for frame in frames]
    assert rest_of(raw.marks) == []


def test_who_sent_nothing_sends_no_mark(zbus_dir: str, raw: RawSubscriber) -> None:
    with zbus.Bus(dir=zbus_dir), zbus.Bus(dir=zbus_dir) as other:
        other.subscribe("a")
    assert rest_of(raw.marks) == []


def test_after_a_join_a_mark_tells_of_what_was_sent_before_it(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber, restless: None
) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1")
        before = stamp_of(raw.receive())
        bus.subscribe("elsewhere")
        sender.send("a", "b", "/2")
        after = stamp_of(raw.receive())
        told = stamp_of(raw.twins.get(timeout=LIMIT).removeprefix(TWIN))
        assert told[:5] == before._replace(seq=2)[:5]
        assert (after.seq, after.first) == (2, 2)
        assert after.settled > before.settled
    assert next_mark(raw)[:5] == after._replace(seq=3)[:5]
    assert rest_of(raw.marks) == []


def test_after_a_settling_that_nobody_joined_marks_go_on_as_before(zbus_dir: str, raw: RawSubscriber) -> None:
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1")
        assert next_mark(raw).seq == 2
        touch(raw.directory)
        sender.send("a", "b", "/2")
        mark = next_mark(raw)
        assert (mark.seq, mark.first) == (3, 2)
    assert rest_of(raw.marks) == []


def test_a_block_subscriber_gets_no_mark(bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber) -> None:
    with joined(zbus_dir, b"", overflow="block") as block, zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1")
        next_mark(raw)
        assert stamp_of(block.receive()).seq == 1
        assert rest_of(block.marks) == rest_of(block.twins) == []


def test_the_marks_of_many_topics_come_a_part_at_a_time_and_none_is_dropped(
    zbus_dir: str, raw: RawSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the queue of the publisher has not room for all of them at once."""
    monkeypatch.setattr(tails, "_AT_ONCE", 100)
    monkeypatch.setattr(tails, "_TRIES", 1_000_000)
    count = 1_000
    with zbus.Bus(dir=zbus_dir, capacity=50) as sender:
        for number in range(count):
            sender.send("a", f"k{number}", "/1")
        deadline = time.monotonic() + LIMIT
        while raw.marks.qsize() < count and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len({frame.split(b"\0")[1] for frame in rest_of(raw.marks)}) == count


def test_a_forked_child_sends_no_marks(zbus_dir: str, raw: RawSubscriber, spawn: Spawn) -> None:
    parent = spawn("forks_amid_sends").ready()
    assert stamp_of(raw.receive()).seq == 1
    assert parent.hear()["child"] == 0
    assert parent.end() == 0
    assert next_mark(raw).seq == 2
    assert rest_of(raw.marks) == []
    assert os.path.isdir(zbus_dir)


def test_a_send_after_a_look_shows_that_the_publisher_is_in_use(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.sending.tails._REST_SECONDS", 1000.0)  # only this thread looks
    bus.send("a", "b", "/1", 1)
    tails = bus._publisher._tails
    for number in range(2, 5):
        tails._look()  # as the housekeeping thread does
        assert tails.resting
        bus.send("a", "b", "/1", number)
        assert not tails.resting
