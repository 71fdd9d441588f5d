"""A tap: what frames say without their data, and what was lost of them."""

from __future__ import annotations

import time
from collections import Counter

import pytest

import zbus
from zbus.observe.tap import Arrived, Head, Tap, TapBus

from .process import LIMIT
from .quiet import fill

pytestmark = pytest.mark.usefixtures("zbus_dir")


def take(tap: Tap, events: int) -> list[Arrived]:
    """Take until so many events have arrived or are known to be lost."""
    found: list[Arrived] = []
    deadline = time.monotonic() + LIMIT
    while sum(counted(found).values()) < events:
        assert time.monotonic() < deadline, found
        arrived = tap.take(0.1)
        assert arrived is not None
        found.append(arrived)
    return found


def counted(found: list[Arrived]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for arrived in found:
        counts["received"] += sum(head.events for head in arrived.heads)
        counts["lost"] += sum(gap.events for gap in arrived.gaps)
    return counts


def heads(found: list[Arrived]) -> list[Head]:
    return [head for arrived in found for head in arrived.heads]


def test_it_tells_topic_events_size_and_time_of_each_frame() -> None:
    with TapBus() as bus, bus.tap("a.**", None) as tap:
        before = time.time()
        for _ in range(3):
            bus.send("a.b", "k", "/1", "x" * 1_000)
        bus.send_many("a.b", "k", [("/1", 1), ("/2", 2)])
        bus.send_many("a.b", "k", [("/1", 1), ("/2", 2)])
        bus.send("a.b", "k", "/1", b"\x00\xff")
        bus.send("other", "k", "/1")
        bus.send("a", "j", "/1")
        found = take(tap, 9)
        after = time.time()
    assert [(head.system, head.kind, head.events) for head in heads(found)] == [
        *[("a.b", "k", 1)] * 3,
        *[("a.b", "k", 2)] * 2,
        ("a.b", "k", 1),
        ("a", "j", 1),
    ]
    assert all(1_000 < head.bytes < 1_200 for head in heads(found)[:3])
    assert all(head.sent and before - 0.001 <= head.sent <= after for head in heads(found))
    assert counted(found)["lost"] == 0


def test_what_it_received_and_lost_adds_up_to_what_was_sent() -> None:
    with (
        TapBus(capacity=100) as bus,
        bus.tap("a", None, capacity=100) as tap,
        bus.subscribe("a", overflow="block", capacity=100),
    ):
        sent = fill(lambda number: bus.send("a", "k", "/1", number, timeout=0))
        found = take(tap, sent)
        assert counted(found).total() == sent
        assert counted(found)["received"] > 0


def test_losses_show_when_nothing_follows() -> None:
    """A mark tells of them, and may reach the decoder from another thread."""
    with TapBus() as bus, bus.tap("a", None, capacity=1) as tap:
        for number in range(5_000):
            bus.send("a", "k", "/1", number)
        found = take(tap, 5_000)
        assert counted(found)["lost"] > 0
        assert counted(found).total() == 5_000


def test_it_ends_when_it_is_closed_and_drained() -> None:
    with TapBus() as bus, bus.tap("a", None) as tap:
        bus.send("a", "k", "/1")
        take(tap, 1)
        bus.send("a", "k", "/1")
        bus.flush(timeout=60)
        tap.close()
        left = []
        while (arrived := tap.take(10)) is not None:
            left.append(arrived)
        assert counted(left)["received"] <= 1
        assert tap.take(10) is None


def test_a_pattern_is_refused_as_by_subscribe() -> None:
    with TapBus() as bus, pytest.raises(zbus.Invalid, match="'a\\*' is not a system pattern"):
        bus.tap("a*", None)
