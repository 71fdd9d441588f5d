"""Subscriptions with a type: objects instead of dicts, and no event that breaks the loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import zbus
from zbus.testing import Faults

from .process import receive
from .quiet import read_all
from .test_twins import take, twin
from .twins import Twin

__all__ = ["twin"]


@dataclasses.dataclass
class Order:
    total: float


@dataclasses.dataclass
class Picky:
    total: float

    def __post_init__(self) -> None:
        if self.total > 10:
            raise KeyError("too much")


async def test_data_arrives_as_the_type_and_what_does_not_fit_is_handed_over(twin: Twin) -> None:
    told: list[zbus.Mismatch] = []
    async with twin.Bus() as bus:
        sub = await bus.subscribe("orders", type=Order, on_error=told.append)
        await bus.send("orders", "created", "/1", {"total": 1})
        await bus.send("orders", "created", "/2", {"total": "much"})
        await bus.send("orders", "created", "/3")
        await bus.send_many("orders", "created", [("/4", {"total": 4}), ("/5", 5), ("/6", {"total": 6})])
        await bus.send_many("orders", "created", [("/7", 7), ("/8", 8)])
        await bus.send("orders", "created", "/9", {"total": 9})
        events = await take(sub, 4)
        assert [(evt.path, evt.data) for evt in events] == [
            ("/1", Order(1)),
            ("/4", Order(4)),
            ("/6", Order(6)),
            ("/9", Order(9)),
        ]
        channel = sub.channel()
        assert [(one.event.path, one.event.data) for one in told] == [
            ("/2", {"total": "much"}),
            ("/3", None),
            ("/5", 5),
            ("/7", 7),
            ("/8", 8),
        ]
        assert told[0].reason == "Expected `float`, got `str` - at `$.total`"
        assert list(channel.mismatches) == told
        assert channel.mismatched == 5
        assert (sub.lost, channel.malformed) == (0, 0)
        assert [peer.counters["mismatched"] for peer in zbus.peers() if peer.role == "member"] == [5]


async def test_whatever_a_types_own_checks_raise_stays_out_of_the_loop(twin: Twin) -> None:
    def fail(_: zbus.Mismatch) -> None:
        raise RuntimeError("a mistake in the callback")

    async with twin.Bus() as bus:
        sub = await bus.subscribe("orders", type=Picky, on_error=fail)
        await bus.send("orders", "created", "/1", {"total": 11})
        await bus.send("orders", "created", "/2", {"total": 2})
        assert [evt.path for evt in await take(sub)] == ["/2"]
        assert "too much" in sub.channel().mismatches[0].reason


def test_iteration_skips_what_does_not_fit(bus: zbus.Bus) -> None:
    told: list[zbus.Mismatch] = []
    sub = bus.subscribe("a", type=int, on_error=told.append)
    for data in (1, "2", 3, None, 5):
        bus.send("a", "b", "/1", data)
    bus.send_many("a", "b", [("/1", 6), ("/1", "7"), ("/1", 8)])
    got = []
    for evt in sub:
        got.append(evt.data)
        if evt.data == 8:
            break
    assert got == [1, 3, 5, 6, 8]
    assert [one.event.data for one in told] == ["2", None, "7"]


def test_types_and_gaps_go_together(bus: zbus.Bus, zbus_faults: Faults) -> None:
    gaps: list[zbus.Gap] = []
    sub = bus.subscribe("a", type=int, on_gap=gaps.append)
    bus.send("a", "b", "/1", 1)
    zbus_faults.drop("a")
    bus.send("a", "b", "/1", 2)
    bus.send("a", "b", "/1", "three")
    bus.send("a", "b", "/1", 4)
    assert [receive(sub).data for _ in range(2)] == [1, 4]
    assert [(gap.first, gap.last) for gap in gaps] == [(2, 2)]
    assert (sub.lost, sub.channel().mismatched) == (1, 1)


def test_latest_with_a_type(bus: zbus.Bus) -> None:
    told: list[Any] = []
    sub = bus.subscribe("a", type=int, overflow="latest", on_error=told.append)
    bus.send("a", "b", "/1", "one")
    bus.send("a", "b", "/1", 2)
    assert receive(sub).data == 2
    assert [one.event.data for one in told] == ["one"]


def test_latest_with_a_type_reports_to_who_iterates_too(bus: zbus.Bus) -> None:
    told: list[Any] = []
    sub = bus.subscribe("a", type=int, overflow="latest", on_error=told.append)
    bus.send("a", "b", "/1", "one")
    bus.send("a", "b", "/1", 2)
    assert next(iter(sub)).data == 2
    assert [one.event.data for one in told] == ["one"]


def test_the_number_kept_is_bounded(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", type=int)
    bus.send_many("a", "b", [("/1", "x")] * 250)
    assert read_all(sub) == []
    assert (sub.channel().mismatched, len(sub.channel().mismatches)) == (250, 100)
