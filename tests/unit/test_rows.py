"""Rows: what `coalesce` holds, as pure data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

import zbus
from zbus.protocol.rows import MAX_ROWS_BYTES, SEPARATOR, batch_of, check_row, event_of, maybe_deep, room_for
from zbus.protocol.wire import Stamp, decode, encode_data, frame_template

STAMP = Stamp("0123456789abcdef", 0, 2**63, 2**63, 10**18)
# An event alone has the same data field as by plain `send`.
DATA: list[Any] = [
    None,
    0,
    -1.5,
    True,
    "",
    "null",
    'quote " and \\',
    [],
    {},
    {"a": [None, {"b": "ü\u2028"}]},
    [None],
    2**64 - 1,
    1e300,
]
PATHS = ["/1", "/ü", "null", '"', "\\", "a" * 300, "/\x01", "/\u2028", "[", ","]


def row_of(path: str, data: Any) -> bytes:
    return orjson.dumps((path, data)) + SEPARATOR


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data", DATA, ids=repr)
def test_a_row_alone_is_the_same_event_as_a_plain_one(path: str, data: Any) -> None:
    assert event_of(row_of(path, data)) == (path.encode(), encode_data(data))


@pytest.mark.parametrize("data", DATA, ids=repr)
def test_rows_make_a_batch_of_the_same_events(data: Any) -> None:
    rows = [row_of(path, data) for path in PATHS]
    frame = frame_template("a", "b", STAMP) % (b"", 7, b"1", batch_of(rows))
    events = decode(frame).events
    assert [evt.path for evt in events] == PATHS
    assert [evt.data for evt in events] == [data] * len(PATHS)
    assert [evt.seq for evt in events] == list(range(7, 7 + len(PATHS)))


# Functions, since a fragment that is kept would slow down every other test of its process.
REFUSED: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"),
    "inf": lambda: [float("inf")],
    "-inf": lambda: {"a": float("-inf")},
    "a fragment": lambda: orjson.Fragment(b"not JSON"),
    "an empty fragment": lambda: [orjson.Fragment(b"")],
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_a_row_cannot_carry_is_refused_as_by_send(make: Callable[[], Any]) -> None:
    data = make()
    with pytest.raises(zbus.Invalid) as expected:
        encode_data(data)
    with pytest.raises(zbus.Invalid) as refused:
        check_row("/null", data, row_of("/null", data))
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize("data", DATA, ids=repr)
def test_what_a_row_can_carry_is_not_refused(data: Any) -> None:
    check_row("/null", data, row_of("/null", data))


def test_a_fragment_that_a_row_can_carry_is_not_refused() -> None:
    data = orjson.Fragment(b'{"a": 1.50}')
    check_row("/null", data, row_of("/null", data))


@pytest.mark.parametrize("limit", [276, 1000, 65_536, 70_000, 2**31 - 1])
@pytest.mark.parametrize("name", ["a", "ü" * 40])
def test_a_batch_keeps_to_the_limit_whatever_its_stamp(name: str, limit: int) -> None:
    room = room_for(name, name, limit)
    assert room <= MAX_ROWS_BYTES
    rows = []
    while (left := room - sum(map(len, rows))) > len(row_of("/1", "")):
        rows.append(row_of("/1", "x" * min(50, left - len(row_of("/1", "")))))
    frame = frame_template(name, name, STAMP) % (b"", 10**18, b"1" * 16, batch_of(rows))
    assert not rows or len(frame) <= limit
    if rows:
        assert json.loads(frame.split(b"\0", 4)[4]) == [json.loads(row[:-1]) for row in rows]


def test_there_is_no_room_below_a_tiny_limit() -> None:
    assert room_for("a", "b", 150) == 0


@pytest.mark.parametrize(("depth", "deep"), [(900, False), (1022, True), (1024, True)])
def test_only_text_of_many_levels_may_be_too_deep(depth: int, deep: bool) -> None:
    row = row_of("/1", orjson.Fragment(b"[" * depth + b"]" * depth))
    assert maybe_deep(row) == deep
    assert deep or decode(frame_template("a", "b", STAMP) % (b"", 7, b"1", batch_of([row]))).events
