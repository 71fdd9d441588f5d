"""Only the text of a `str` counts, whatever its class: enums, and classes that compare in their own way."""

from __future__ import annotations

from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest

import zbus
from tests.faults.giving import Loose
from zbus.protocol import patterns

from .process import receive
from .twins import TWINS, Twin


class Kind(str, Enum):  # noqa: UP042  # the older form is what is tried here
    """Prints, and in Python 3.11 formats, as `Kind.CREATED`."""

    CREATED = "order.created"
    ORDERS = "orders"
    PATH = "/orders/1"


class Name(StrEnum):
    CREATED = "order.created"
    ORDERS = "orders"
    PATH = "/orders/1"


class Lying(str):
    """Says of itself what its text does not."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("orders")

    def __bool__(self) -> bool:
        return True

    def __contains__(self, other: object) -> bool:
        return False

    def __str__(self) -> str:
        return "something else"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "something else"

    def encode(self, *args: Any) -> bytes:  # noqa: ARG002
        return b"something else"


class Alone(str):
    """Equals nothing but itself."""

    __slots__ = ()

    __eq__ = object.__eq__
    __hash__ = object.__hash__


CLASSES = (str, Kind, Name, Loose, Lying, Alone)


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest, zbus_dir: str) -> Twin:
    return TWINS[request.param]


@pytest.mark.parametrize("kind", CLASSES[1:])
async def test_the_topic_is_that_of_the_plain_text(twin: Twin, kind: type[str]) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("orders", "order.created")
        for cls in (kind, str, kind, str, kind):
            await bus.send(cls("orders"), cls("order.created"), cls("/orders/1"), {"by": cls.__name__})
            await bus.send_many(cls("orders"), cls("order.created"), [(cls("/orders/1"), 1)] * 2)
        got = []
        for _ in range(15):
            evt, ok = await sub.channel().receive(timeout=30)
            assert ok
            got.append(evt)
        assert [evt.seq for evt in got] == list(range(1, 16))
        assert {(evt.system, evt.kind, evt.path) for evt in got} == {("orders", "order.created", "/orders/1")}
        assert {type(text) for evt in got for text in (evt.system, evt.kind, evt.path)} == {str}
        assert sub.lost == 0


@pytest.mark.parametrize("kind", [Loose, Lying, Alone])
def test_what_calls_itself_equal_is_another_topic_by_its_text(bus: zbus.Bus, kind: type[str]) -> None:
    sub = bus.subscribe("*")
    for system in ("orders", kind("orders"), kind("ORDERS"), "ORDERS", kind("orders")):
        bus.send(system, "k", "/1")
        bus.send(system, kind("k"), kind("/1"))
    got = [receive(sub) for _ in range(10)]
    assert [evt.system for evt in got] == [*["orders"] * 4, *["ORDERS"] * 4, *["orders"] * 2]
    assert [evt.seq for evt in got] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert sub.lost == 0


@pytest.mark.parametrize("kind", [Loose, Lying, Alone])
@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_a_class_does_not_hide_what_is_wrong_with_a_text(bus: zbus.Bus, kind: type[str], text: str) -> None:
    sub = bus.subscribe("*")
    bus.send("orders", "k", "/1")  # the topic is known: the short way
    for send in (
        lambda: bus.send(kind(text), "k", "/1"),
        lambda: bus.send("orders", kind(text), "/1"),
        lambda: bus.send("orders", "k", kind(text)),
        lambda: bus.send_many("orders", "k", [(kind(text), 1)]),
        lambda: bus.send_many(kind(text), "k", [("/1", 1)]),
        lambda: bus.subscribe(kind(text)),
    ):
        with pytest.raises(zbus.Invalid):
            send()
    bus.send("orders", "k", "/2")
    assert [receive(sub).seq for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("kind", CLASSES)
def test_patterns_names_and_options_by_their_text(zbus_dir: str, kind: type[str], tmp_path: Path) -> None:
    asked = []

    def policy(action: str, resource: str) -> bool:
        asked.append((action, type(resource), resource))
        return True

    system, which = kind("orders"), kind("order.created")
    with (
        zbus.Bus(kind("orders"), dir=zbus_dir, policy=policy) as bus,
        zbus.Bus("orders", dir=zbus_dir) as plain,
    ):
        sub = bus.subscribe(system, which)
        channel = sub.channel()
        assert (type(channel.system), channel.system, type(channel.kind), channel.kind) == (
            str,
            "orders",
            str,
            "order.created",
        )
        bus.send(system, which, "/1")
        plain.send("orders", "order.created", "/2")
        assert [receive(sub).path for _ in range(2)] == ["/1", "/2"]
        assert (bus.name, type(bus.name)) == ("orders", str)
        assert zbus.peers(kind("orders"), dir=zbus_dir) == zbus.peers("orders", dir=zbus_dir) != []
    assert asked == [("events.subscribe", str, "orders"), ("events.send", str, "orders")]


class Option(str, Enum):  # noqa: UP042
    DENY = "deny"
    SEND = "events.send"
    SYSTEM = "orders.*"
    LATEST = "latest"
    ALL = "*"


def test_rules_and_options_may_be_members_of_an_enum(bus: zbus.Bus) -> None:
    policy = zbus.Policy([(Option.DENY, Option.SEND, Option.SYSTEM)], default="allow")
    assert [type(part) for part in policy.rules[0]] == [str, str, str]
    assert not policy("events.send", "orders.eu")
    assert not policy(Option.SEND, "orders.eu")
    assert policy("events.send", "metrics")
    channel = bus.subscribe(Option.ALL, Option.ALL, overflow=Option.LATEST).channel()
    assert (channel.overflow, type(channel.overflow), channel.kind) == ("latest", str, None)


def test_members_of_an_enum_go_the_short_way(bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = bus.subscribe("orders")
    bus.send(Kind.ORDERS, Kind.CREATED, Kind.PATH)
    assert {Kind, str} <= patterns.ALIKE
    assert not {Loose, Lying, Alone} & patterns.ALIKE
    monkeypatch.setattr(bus._node.publisher, "_attempts", None)  # the long way
    bus.send(Kind.ORDERS, Kind.CREATED, Kind.PATH)
    bus.send("orders", "order.created", "/orders/1")
    assert [receive(sub).seq for _ in range(3)] == [1, 2, 3]
