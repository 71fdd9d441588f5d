"""What type checkers are to find of the API. `test_checkers.py` gives it to mypy and pyright.

A line with `# wrong` at its end must be an error to both; every other must not be one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import zbus
import zbus.logging
from zbus import aio


@dataclass
class Order:
    total: float


@dataclass
class Metric:
    load: float


def events_carry_the_type(bus: zbus.Bus) -> None:
    for sub in (bus.subscribe("orders", type=Order), zbus.subscribe("orders", "created", type=Order)):
        assert_type(sub, zbus.Subscription[Order])
        assert_type(sub.channel(), zbus.Channel[Order])
        for evt in sub:
            assert_type(evt, zbus.Event[Order])
            assert_type(evt.data, Order)
            assert_type(evt.path, str)
            print(evt.data.totl)  # wrong
    with bus.subscribe("orders", type=Order) as same:
        assert_type(same, zbus.Subscription[Order])
    assert_type(bus.subscribe("a", type=list[int]), zbus.Subscription[list[int]])
    options = bus.subscribe("a", type=Order, overflow="block", capacity=10, on_gap=print, on_error=print)
    assert_type(options, zbus.Subscription[Order])


def without_a_type_data_is_anything(bus: zbus.Bus) -> None:
    sub = bus.subscribe("orders")
    assert_type(sub, zbus.Subscription[Any])
    assert_type(zbus.subscribe("orders", None, type=None), zbus.Subscription[Any])
    evt, ok = sub.channel().receive()
    if ok:
        print(evt.data["total"], evt.system, evt.origin, evt.seq)
        print(evt.sistem)  # wrong


def what_msgspec_checks_need_not_be_a_class(bus: zbus.Bus) -> None:
    bus.subscribe("a", type=int | str)
    for evt in bus.subscribe("a", type=dict[str, list[float]]):
        assert_type(evt.data, dict[str, list[float]])


def receive_narrows(channel: zbus.Channel[Order]) -> None:
    evt, ok = channel.receive(timeout=1.0)
    if ok:
        print(evt.system, evt.data.total)
        print(evt.data.totl)  # wrong
    if not ok:
        return
    print(evt.data.total)
    got = channel.receive(0)
    print(got.evnt)  # wrong
    if got.ok:
        print(got.event.data.total)
        print(got.event.data.totl)  # wrong
    if channel.receive()[1]:
        print(channel.receive()[0].data.total)
    first, *_ = channel.receive()
    print(first.system)
    _, _, _ = channel.receive()  # wrong


def select_gives_one_of_them(
    orders: zbus.Channel[Order], metrics: zbus.Channel[Metric], others: list[zbus.Channel]
) -> None:
    channel, evt, ok = zbus.select(orders, metrics, timeout=1.0)
    if ok:
        data = evt.data
        if isinstance(data, Order):
            print(data.total)
        elif isinstance(data, Metric):
            print(data.load)
        print(data.totl)  # wrong
    else:
        channel.close()
    one, order, _ = zbus.select(orders)
    assert_type(one, zbus.Channel[Order])
    print(order.data.total)
    any_of, something, _ = zbus.select(*others)
    others.remove(any_of)
    print(something.data["total"])
    zbus.select(orders, "metrics")  # wrong


def options_are_checked(bus: zbus.Bus, text: str) -> None:
    how: zbus.Overflow = "latest"
    bus.subscribe("a", overflow=how)
    bus.subscribe("a", overflow="newest")  # wrong
    bus.subscribe("a", overflow=text)  # wrong
    bus.subscribe("a", capacity="10")  # wrong
    bus.subscribe("a", on_gap=lambda gap: print(gap.events))
    bus.subscribe("a", on_gap=lambda gap: print(gap.evts))  # wrong
    bus.subscribe("a", on_error=lambda one: print(one.event.data, one.reason), type=Order)
    zbus.subscribe("a", overflow="newest")  # wrong
    zbus.Bus(policy=lambda action, system: action == system)
    zbus.logging.Handler("shop", system="logs", level="INFO")
    zbus.logging.Handler(5)  # wrong


def sends_take_anything_as_data(bus: zbus.Bus) -> None:
    assert_type(bus.send_many("a", "b", [("/1", {"x": 1}), ("/2", None)]), int)
    bus.send("a", "b", "/1", b"bytes", timeout=None)
    bus.send("a", "b", 1)  # wrong
    zbus.send("a", "b")  # wrong


def a_consumer_of_anything_takes_typed_events(sub: zbus.Subscription[Order]) -> None:
    def work(event: zbus.Event) -> None:
        print(event.path, event.data["anything"])

    def read(channel: zbus.Channel) -> None:
        for event in channel:
            work(event)

    read(sub.channel())


async def the_twin_has_the_same_types(bus: aio.Bus) -> None:
    sub = await bus.subscribe("orders", type=Order)
    assert_type(sub, aio.Subscription[Order])
    assert_type(await aio.subscribe("orders", type=Order), aio.Subscription[Order])
    assert_type(await bus.subscribe("orders"), aio.Subscription[Any])
    async for evt in sub:
        assert_type(evt, zbus.Event[Order])
    evt, ok = await sub.channel().receive(timeout=1.0)
    if ok:
        print(evt.system, evt.data.total)
        print(evt.data.totl)  # wrong
    got = await sub.channel().receive()
    if got.ok:
        print(got.event.data.total)
    metrics = (await bus.subscribe("metrics", type=Metric)).channel()
    channel, either, ok = await aio.select(sub.channel(), metrics)
    if ok and isinstance(either.data, Metric):
        print(either.data.load)
    await channel.close()
    await bus.subscribe("a", overflow="newest")  # wrong
    async with bus.subscribe("a") as other:  # wrong
        print(other)
