"""The wire format: what goes in comes out, and what breaks a rule is told so, on either side."""

from __future__ import annotations

import json
from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus import errors
from zbus.event import Event
from zbus.protocol.wire import (
    CONTROL,
    Frame,
    Malformed,
    Stamp,
    check_sendable,
    decode,
    encode_batch,
    encode_data,
    frame_template,
    parse_stamp,
)

from .frames import known, mutated, noise

ORIGIN = "0123abcd"
TOPIC = frame_template("orders", "order.created", Stamp(ORIGIN, 0, 99))
TIME = b"1764192207000001"

text = st.text(st.characters(exclude_categories=["Cs"]))
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


def strict(value: Any) -> str:
    """Return a text that differs where JSON values do: `1 == True` in Python."""
    return json.dumps(value, sort_keys=True)


def refused(call: Callable[..., object], *args: Any) -> errors.Invalid:
    """Return the error of a call that must be refused, which no retry can help."""
    with pytest.raises(errors.Invalid) as caught:
        call(*args)
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)
    return caught.value


# -- there and back


@given(paths, values)
def test_an_event_comes_back_as_it_was_sent(path: str, data: Any) -> None:
    frame = decode(TOPIC % (path.encode(), 7, TIME, encode_data(data)))
    (event,) = frame.events
    assert strict(event.data) == strict(data)
    assert event.time == 1764192207.000001
    event.data = None
    assert event == Event("orders", "order.created", path, None, ORIGIN, 7)
    assert (frame.system, frame.kind, frame.stamp.origin, frame.stamp.seq, frame.stamp.born) == (
        "orders",
        "order.created",
        ORIGIN,
        7,
        99,
    )


@given(paths, st.binary())
def test_bytes_come_back_as_bytes(path: str, data: bytes) -> None:
    (event,) = decode(TOPIC % (path.encode(), 1, TIME, encode_data(data))).events
    assert type(event.data) is bytes
    assert event.data == data


@given(st.lists(st.tuples(paths, values), min_size=1), st.integers(1, 2**53))
def test_a_batch_comes_back_item_by_item_numbered_from_its_seq(items: list[Any], seq: int) -> None:
    data, count = encode_batch(items)
    events = decode(TOPIC % (b"", seq, TIME, data)).events
    assert count == len(items)
    assert [event.seq for event in events] == list(range(seq, seq + count))
    assert [(event.path, strict(event.data)) for event in events] == [
        (path, strict(value)) for path, value in items
    ]
    assert {(event.system, event.kind, event.origin, event.time) for event in events} == {
        ("orders", "order.created", ORIGIN, 1764192207.000001)
    }


@given(values)
def test_a_batch_carries_what_a_single_event_does(data: Any) -> None:
    (single,) = decode(TOPIC % (b"/p", 1, TIME, encode_data(data))).events
    (item,) = decode(TOPIC % (b"", 1, TIME, encode_batch([("/p", data)])[0])).events
    assert repr(item._fields()) == repr(single._fields())


@pytest.mark.parametrize("name", ["100%", "%b", "%s", "%%d"])
def test_a_per_cent_sign_in_a_name_is_no_format(name: str) -> None:
    frame = decode(frame_template(name, name, Stamp(ORIGIN, 0, 0)) % (b"/p", 1, TIME, b""))
    assert (frame.system, frame.kind) == (name, name)


def test_times_that_are_unknown_are_empty_fields() -> None:
    for stamp in (Stamp(ORIGIN), Stamp(ORIGIN, settled=5, first=2)):
        raw = frame_template("s", "k", stamp) % (b"/p", 3, b"8", b"1")
        assert raw == f"s\0k\0/p\0{ORIGIN}.3....8\x001".encode()
        assert decode(raw).stamp == Stamp(ORIGIN, 3, time=8)
    assert b".3.9...8\0" in frame_template("s", "k", Stamp(ORIGIN, born=9)) % (b"/p", 3, b"8", b"1")


# -- what may be sent


@pytest.mark.parametrize("data", [bytearray(b"a\0b"), memoryview(b"a\0b"), memoryview(b"axx\0xxbxx")[::3]])
def test_anything_bytes_like_goes_as_bytes(data: Any) -> None:
    assert encode_data(data) == b"\0a\0b"


def test_none_is_no_data_and_false_is_some() -> None:
    assert encode_data(None) == b""
    assert encode_data(False) == b"false"


def test_null_in_a_text_is_no_cause_for_alarm() -> None:
    assert encode_data({"null": [None, "null"]}) == b'{"null":[null,"null"]}'


def test_a_tuple_goes_as_an_array() -> None:
    assert encode_data((1, (2,))) == b"[1,[2]]"


@pytest.mark.parametrize(
    ("data", "expected"),
    [({1: "a"}, b'{"1":"a"}'), ({"x": [{True: {None: 1}}]}, b'{"x":[{"true":{"null":1}}]}')],
)
def test_keys_that_are_not_strings_become_strings(data: Any, expected: bytes) -> None:
    assert encode_data(data) == expected
    assert encode_batch([("/p", data)]) == (b'[["/p",' + expected + b"]]", 1)


@pytest.mark.parametrize("key", [1, -5, 1.5, True, None])
def test_two_keys_that_are_one_in_json_are_refused(key: object) -> None:
    twin = json.dumps(key)
    for data in ({key: 1, twin: 2}, {twin: 1, key: 2}):
        error = refused(encode_data, {"a": [data]})
        assert error.message.startswith("data['a'][0] has both ")
        assert repr(key) in error.message
        assert repr(twin) in error.message
        assert error.details == {"where": "data['a'][0]"}


class Colour:
    """A type of which JSON knows nothing."""


Pair = namedtuple("Pair", "a b")

ODD = [
    (set(), "is of type set, which JSON cannot carry: convert it first"),
    (Colour(), "is of type Colour, which JSON cannot carry: convert it first"),
    (UserDict(), "is of type UserDict, which JSON cannot carry: convert it first"),
    (Pair(1, 2), "is of type Pair, which JSON cannot carry: convert it first"),
    (1j, "is of type complex, which JSON cannot carry: convert it first"),
    (len, "is of type builtin_function_or_method, which JSON cannot carry: convert it first"),
    (2**64, "is 18446744073709551616, beyond 64 bits: send it as a string"),
    (-(2**63) - 1, "is -9223372036854775809, beyond 64 bits: send it as a string"),
    ("a\ud800", "holds a lone surrogate, which UTF-8 cannot carry: 'a\\ud800'"),
    (nan, "is nan, which JSON cannot carry: send None or a string"),
    (inf, "is inf, which JSON cannot carry: send None or a string"),
    (-inf, "is -inf, which JSON cannot carry: send None or a string"),
    ({(1, 2): 3}, "has a key that JSON cannot carry: "),
    ({2**64: 3}, "has a key that JSON cannot carry: "),
    ({"\ud800": 3}, "has a key that JSON cannot carry: "),
    ({nan: 3}, "has the key nan, which JSON cannot carry: use a string"),
]


@pytest.mark.parametrize(("value", "advice"), ODD)
def test_what_json_cannot_carry_is_refused_with_advice(value: Any, advice: str) -> None:
    error = refused(encode_data, value)
    assert error.message.startswith(f"data {advice}")


@pytest.mark.parametrize(("value", "advice"), [*ODD, (b"x", "is bytes: send bytes as the whole data, or")])
def test_the_message_says_where_it_is(value: Any, advice: str) -> None:
    error = refused(encode_data, {"a": [0, {"b": value, "c": None}], "d": {}})
    assert error.message.startswith(f"data['a'][1]['b'] {advice}")
    assert error.details == {"where": "data['a'][1]['b']"}


@pytest.mark.parametrize(("value", "advice"), [*ODD, (b"x", "is bytes: send bytes as the whole data, or")])
def test_the_message_says_which_item_of_a_batch_it_is(value: Any, advice: str) -> None:
    error = refused(encode_batch, [("/a", None), ("/b", [value])])
    assert error.message.startswith(f"items[1][1][0] {advice}")


def test_bytes_in_a_batch_are_refused_with_advice() -> None:
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        error = refused(encode_batch, [("/a", 1), ("/b", data)])
        assert error.message == "items[1] has bytes, which a batch cannot carry: use send()"
        assert error.details == {"index": 1}


def test_data_that_contains_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append({"again": ring})
    for call, data in ((encode_data, ring), (encode_batch, [("/p", ring)])):
        assert "or contains itself: flatten it" in refused(call, data).message


def test_data_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert (
        refused(encode_data, deep).message
        == "data is nested more than 254 deep, or contains itself: flatten it"
    )


def test_a_dataclass_goes_as_an_object() -> None:
    @dataclass
    class Order:
        total: float

    assert encode_data(Order(9.5)) == b'{"total":9.5}'


@pytest.mark.parametrize("items", [[], (), iter([])])
def test_a_batch_of_nothing_is_no_frame(items: Any) -> None:
    assert encode_batch(items) == (b"", 0)


@pytest.mark.parametrize(
    "items",
    [[("/a", 1), ["/b", 2]], (("/a", 1), ("/b", 2)), iter([("/a", 1), ("/b", 2)])],
)
def test_a_batch_is_any_iterable_of_pairs(items: Any) -> None:
    assert encode_batch(items) == (b'[["/a",1],["/b",2]]', 2)


@pytest.mark.parametrize("item", ["/b", "ab", 5, None, (), ("/b",), ("/b", 1, 2), {"path": "/b", "data": 1}])
def test_an_item_that_is_no_pair_is_a_mistake_in_the_program(item: Any) -> None:
    with pytest.raises(TypeError, match=r"^items\[1\] must be a \(path, data\) pair, not "):
        encode_batch([("/a", 1), item])


@pytest.mark.parametrize("path", [None, 5, b"/b", ["/b"]])
def test_a_path_of_a_wrong_type_is_a_mistake_in_the_program(path: Any) -> None:
    with pytest.raises(TypeError, match=r"^path of items\[1\] must be a str"):
        encode_batch([("/a", 1), (path, 1)])


@pytest.mark.parametrize(
    ("path", "advice"), [("", "is required"), ("/a\0", "contains NUL"), ("\ud800", "holds a lone surrogate")]
)
def test_a_bad_path_of_a_batch_is_refused_with_its_place(path: str, advice: str) -> None:
    error = refused(encode_batch, [("/a", 1), (path, 1)])
    assert error.message.startswith("path of items[1] ")
    assert advice in error.message


@pytest.mark.parametrize("system", ["zbus", "zbus.member", "zbus.a.b"])
def test_the_systems_of_the_bus_itself_are_reserved(system: str) -> None:
    assert (
        "is reserved for the bus's own events: choose another" in refused(check_sendable, system, "k").message
    )


@pytest.mark.parametrize("system", ["zbusy", "a.zbus", "Zbus"])
def test_a_name_that_only_resembles_them_is_not(system: str) -> None:
    check_sendable(system, "zbus")


def test_system_comes_before_kind_in_what_is_refused() -> None:
    assert refused(check_sendable, "", "").message == "system is required"
    assert refused(check_sendable, "s", "").message == "kind is required"
    with pytest.raises(TypeError, match="kind must be a str, not bytes"):
        check_sendable("s", b"k")


# -- what arrives


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (b"", Stamp()),
        (b"0123abcd.7", Stamp("0123abcd", 7)),
        (b"0123abcd.7.99", Stamp("0123abcd", 7, 99)),
        (b"0123abcd.7.99.120", Stamp("0123abcd", 7, 99, 120)),
        (b"0123abcd.7.99.120.3", Stamp("0123abcd", 7, 99, 120, 3)),
        (b"0123abcd.7.99.120.3.5", Stamp("0123abcd", 7, 99, 120, 3, 5)),
        (b"0123abcd.7....5", Stamp("0123abcd", 7, time=5)),
        (b"0123abcd.7.99.120.3.5.x.y", Stamp("0123abcd", 7, 99, 120, 3, 5)),
        (b"0123abcd.7.99.120.3.", Stamp("0123abcd", 7, 99, 120, 3)),
        (b"0123abcd.7.99.120.3.x.y", Stamp("0123abcd", 7, 99, 120, 3)),
        (b"0123abcd.7.99.120.x.y", Stamp("0123abcd", 7, 99, 120)),
        (b"0123abcd.7.x.99", Stamp("0123abcd", 7, -1, 99)),
        (b"0123abcd.7.", Stamp("0123abcd", 7)),
    ],
)
def test_a_stamp_has_up_to_six_fields_and_what_may_come(stamp: bytes, expected: Stamp) -> None:
    assert parse_stamp(stamp) == expected


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (b"", "0 separators where 4 are needed"),
        (b"s\0k\0/p\0", "3 separators where 4 are needed"),
        (b"\0k\0/p\0\0", "system is required"),
        (b"s\0\0/p\0\0", "kind is required"),
        (b"s.*\0k\0/p\0\0", "system 's.*' contains '*'"),
        (b"s\0k.\0/p\0\0", "kind 'k.' has an empty segment"),
        (CONTROL + b"s\0k\0/p\0\0", "system is not UTF-8"),
        (b"s\0\xff\0/p\0\0", "kind is not UTF-8"),
        (b"s\0k\0\xff\0\0", "path is not UTF-8"),
        (b"s\0k\0/p\0x.1\0", "origin is not 8 to 16 lowercase hex digits"),
        (b"s\0k\0/p\x000123abcd.0\0", "seq is not a decimal number from 1"),
        (b"s\0k\0/p\0\0{", "data is not JSON"),
        (b"s\0k\0\0\0{", "data is not JSON"),
        (b"s\0k\0\0\0{}", "a batch is a JSON array with at least one item"),
        (b"s\0k\0\0\0[]", "a batch is a JSON array with at least one item"),
        (b"s\0k\0\0\0[1]", "a batch item is [path, data] or [path]"),
        (b's\0k\0\0\0["ab"]', "a batch item is [path, data] or [path]"),
        (b's\0k\0\0\0[["/a",1,2]]', "a batch item is [path, data] or [path]"),
        (b's\0k\0\0\0[["",1]]', "a batch item's path is a non-empty string without NUL"),
        (b"s\0k\0\0\0[[1,1]]", "a batch item's path is a non-empty string without NUL"),
    ],
)
def test_the_text_of_malformed_says_which_rule_is_broken(frame: bytes, rule: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode(frame)
    assert rule in str(caught.value)


def test_malformed_shows_no_cause_from_below() -> None:
    with pytest.raises(Malformed) as caught:
        decode(b"s\0k\0/p\0\0{")
    assert caught.value.__suppress_context__


def test_a_hundred_thousand_random_and_damaged_frames_raise_nothing_but_malformed() -> None:
    random = Random(20)
    good = known()
    counts = {True: 0, False: 0}
    for _ in range(100_000):
        frame = noise(random) if random.random() < 0.2 else mutated(random.choice(good), random)
        try:
            check_decoded(decode(frame))
            counts[True] += 1
        except Malformed:
            counts[False] += 1
    assert min(counts.values()) > 2_000


def check_decoded(frame: Frame) -> None:
    """Check what every consumer relies on, whatever arrived."""
    assert (frame.stamp.seq > 0) is bool(frame.stamp.origin)
    assert frame.events or frame.stamp.origin  # a mark has none
    for number, event in enumerate(frame.events, start=frame.stamp.seq):
        assert (event.system, event.kind, event.origin) == (frame.system, frame.kind, frame.stamp.origin)
        assert event.system
        assert event.kind
        assert event.path
        assert "\0" not in event.path
        event.path.encode()
        assert event.seq == (number if frame.stamp.origin else 0)
