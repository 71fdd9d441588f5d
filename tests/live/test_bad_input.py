"""Bad input: a clear error, nothing sent, nothing lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import orjson
import pytest

import zbus
from zbus import errors
from zbus.node import channel_records


class Limit(Enum):
    NONE = math.inf


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.fixture
def unharmed(bus: zbus.Bus) -> Any:
    """Give a bus whose subscriber must have seen nothing but the one event sent at the end, unlost."""
    sub = bus.subscribe("*")
    yield bus
    bus.send("good", "event", "/1")
    evt, _ = sub.channel().receive(timeout=30)
    assert evt is not None
    assert (evt.system, evt.seq) == ("good", 1)
    assert sub.lost == sub.channel().malformed == 0


@pytest.mark.parametrize(
    ("system", "kind", "path", "message"),
    [
        ("", "", "", "system is required"),
        ("a", "", "", "kind is required"),
        ("a", "b", "", "path is required"),
        ("a\0b", "k", "/1", "NUL"),
        ("a", "k\0", "/1", "NUL"),
        ("a", "k", "/\0", "NUL"),
        ("a.*", "k", "/1", "only a subscription may use"),
        ("a", "(k|l)", "/1", "only a subscription may use"),
        ("a..b", "k", "/1", "empty segment"),
        (".", "k", "/1", "empty segment"),
        ("a", "k.", "/1", "empty segment"),
        ("\ud800", "k", "/1", "lone surrogate"),
        ("a", "\udfff", "/1", "lone surrogate"),
        ("a", "k", "/\ud800", "lone surrogate"),
        ("zbus", "k", "/1", "reserved"),
        ("zbus.x", "k", "/1", "reserved"),
    ],
)
def test_names_that_cannot_be_sent(
    unharmed: zbus.Bus, system: str, kind: str, path: str, message: str
) -> None:
    in_batch = message.replace("path is", r"path of items\[1\] is")
    for expected, send in (
        (message, lambda: unharmed.send(system, kind, path)),
        (message, lambda: unharmed.send(system, kind, path, {"a": 1}, timeout=1.0)),
        (in_batch, lambda: unharmed.send_many(system, kind, [("/ok", 1), (path, 2)])),
    ):
        with pytest.raises(zbus.Invalid, match=expected) as caught:
            send()
        assert caught.value.kind == errors.INVALID
        assert caught.value.retryable is False


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"when": object()}, r"data\['when'\] is of type object"),
        ({"a": [1, {"b": {2, 3}}]}, r"data\['a'\]\[1\]\['b'\] is of type set"),
        (1j, "data is of type complex"),
        (2**64, "beyond 64 bits"),
        ({"n": [-(2**63) - 1]}, r"data\['n'\]\[0\] is -9223372036854775809, beyond 64 bits"),
        (math.nan, "data is nan"),
        (Limit.NONE, "which JSON cannot carry"),
        ({"x": [None, Limit.NONE]}, "which JSON cannot carry"),
        ({"x": (orjson.Fragment(b"{bad"),)}, "orjson.Fragment"),
        (orjson.Fragment(b"\0bytes"), "orjson.Fragment"),
        ([10**5000], "beyond 64 bits"),
        ({"x": [None, math.inf]}, r"data\['x'\]\[1\] is inf"),
        (["ok", "\ud800"], r"data\[1\] holds a lone surrogate"),
        ({"k": b"x"}, r"data\['k'\] is bytes"),
        ({(1, 2): 3}, "data has a key that JSON cannot carry"),
        (CYCLE, "contains itself"),
    ],
)
def test_data_that_json_cannot_carry(unharmed: zbus.Bus, data: Any, message: str) -> None:
    with pytest.raises(zbus.Invalid, match=message):
        unharmed.send("a", "k", "/1", data)
    with pytest.raises(zbus.Invalid, match=r"^items"):
        unharmed.send_many("a", "k", [("/1", 1), ("/2", data)])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda b: b.send(1, "k", "/1"), "system must be a str, not int"),
        (lambda b: b.send(["a"], "k", "/1"), "system must be a str, not list"),
        (lambda b: b.send("a", None, "/1"), "kind must be a str, not NoneType"),
        (lambda b: b.send("a", "k", 5), "path must be a str, not int"),
        (lambda b: b.send("a", "k", b"/1"), "path must be a str, not bytes"),
        (lambda b: b.send("a", "k", None, 1), "path must be a str, not NoneType"),
        (lambda b: b.send("a", "k", "/1", timeout="1"), "timeout must be seconds"),
        (lambda b: b.subscribe(7), "system pattern must be a str"),
        (lambda b: b.subscribe("a", 7), "kind pattern must be a str"),
        (lambda b: b.subscribe("a", capacity="9"), "capacity must be an int"),
        (lambda b: b.subscribe("a", on_gap=5), "on_gap must be callable"),
        (lambda b: b.send_many("a", "k", 5), "items"),
        (lambda b: b.send_many("a", "k", [5]), r"items\[0\] must be a \(path, data\) pair"),
        (lambda b: b.send_many("a", "k", ["ab"]), r"items\[0\] must be a \(path, data\) pair"),
        (lambda b: b.send_many("a", "k", [("/1", 1), ("/2",)]), r"items\[1\] must be a \(path, data\) pair"),
        (lambda b: b.send_many("a", "k", [(1, 1)]), r"path of items\[0\] must be a str"),
        (lambda b: b.subscribe("a").channel().receive(timeout="1"), "timeout must be seconds"),
        (lambda _: zbus.Bus(5), "the bus name must be a str"),
        (lambda _: zbus.Bus(policy=5), "policy must be callable"),
        (lambda _: zbus.Bus(capacity=1.5), "capacity must be an int"),
        (lambda _: zbus.Bus(linger="1"), "linger must be seconds"),
    ],
)
def test_wrong_types(unharmed: zbus.Bus, use: Callable[[zbus.Bus], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        use(unharmed)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda b: b.subscribe(""), "system pattern is required"),
        (lambda b: b.subscribe("ord*"), r"use 'orders\.\*' or 'orders\.\*\*'"),
        (lambda b: b.subscribe("orders.>"), r"use '\*\*'"),
        (lambda b: b.subscribe("a", "k..l"), "empty segment"),
        (lambda b: b.subscribe("a\0"), "NUL"),
        (lambda b: b.subscribe("\ud800"), "lone surrogate"),
        (lambda b: b.subscribe("a", overflow="latest?"), "is not one of 'drop', 'block'"),
        (lambda b: b.subscribe("a", capacity=0), "give a number from 1"),
        (lambda b: b.send("a", "k", "/1", timeout=-1), "give seconds from 0"),
        (lambda b: b.send("a", "k", "/1", timeout=math.nan), "give seconds from 0"),
        (lambda b: b.send_many("a", "k", [("/1", b"x")]), r"items\[0\] has bytes"),
        (lambda _: zbus.Bus("a/b"), "is not a bus name"),
        (lambda _: zbus.Bus(".."), "is not a bus name"),
        (lambda _: zbus.Bus(""), "is not a bus name"),
        (lambda _: zbus.Bus(max_event_bytes=0), "give a number from 1"),
        (lambda _: zbus.Bus(join_timeout=-1), "give seconds from 0"),
    ],
)
def test_wrong_values(unharmed: zbus.Bus, use: Callable[[zbus.Bus], object], message: str) -> None:
    with pytest.raises(zbus.Invalid, match=message) as caught:
        use(unharmed)
    assert caught.value.kind == errors.INVALID
    assert caught.value.retryable is False


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_an_event_above_the_limit_is_refused_and_one_at_the_limit_is_not(zbus_dir: str, limit: int) -> None:
    with zbus.Bus(dir=zbus_dir, max_event_bytes=limit) as bus:
        sub = bus.subscribe("a")
        low, high = 0, limit
        while low < high:  # the largest payload that is accepted
            middle = (low + high + 1) // 2
            try:
                bus.send("a", "k", "/1", bytes(middle))
                low = middle
            except zbus.Invalid as error:
                assert "max_event_bytes" in error.message
                assert error.details["bytes"] > error.details["limit"] == limit
                high = middle - 1
        assert limit - 100 < low < limit
        with pytest.raises(zbus.Invalid, match="max_event_bytes"):
            bus.send_many("a", "k", [("/1", "x" * limit)])
        bus.send("a", "k", "/last")
        sizes = []
        for evt in sub:
            if evt.path == "/last":
                break
            sizes.append(len(evt.data))
        assert max(sizes) == low
        assert sub.lost == 0


def test_too_many_subscriptions_are_refused_until_some_are_closed(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_records, "_MAX_CHANNELS", 5)
    kept = [bus.subscribe("a", overflow=("drop", "block", "latest")[number % 3]) for number in range(5)]
    with pytest.raises(zbus.Unavailable, match="has 5 subscriptions, as many as it may: use wider") as caught:
        bus.subscribe("a")
    assert caught.value.retryable
    kept.pop().close()
    kept.append(bus.subscribe("a"))
    bus.send("a", "b", "/1")
    assert [sub.channel().receive(timeout=30)[1] for sub in kept] == [True] * 5
