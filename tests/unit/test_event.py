"""What a subscriber holds in its hands."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest

import zbus
from zbus.event import CLOSED, Event, Gap, Received
from zbus.protocol.wire import parse_stamp


def test_an_event_needs_no_data_and_no_stamp() -> None:
    event = Event("orders", "order.created", "/orders/1")
    assert (event.system, event.kind, event.path) == ("orders", "order.created", "/orders/1")
    assert (event.data, event.origin, event.seq, event.time) == (None, "", 0, None)


@pytest.mark.parametrize(
    "other",
    [
        Event("x", "k", "/p", 1, "0123abcd", 7),
        Event("s", "x", "/p", 1, "0123abcd", 7),
        Event("s", "k", "/x", 1, "0123abcd", 7),
        Event("s", "k", "/p", 2, "0123abcd", 7),
        Event("s", "k", "/p", 1, "deadbeef", 7),
        Event("s", "k", "/p", 1, "0123abcd", 8),
        ("s", "k", "/p", 1, "0123abcd", 7),
    ],
)
def test_events_are_equal_only_if_every_field_is(other: object) -> None:
    event = Event("s", "k", "/p", 1, "0123abcd", 7)
    assert event == Event("s", "k", "/p", 1, "0123abcd", 7)
    assert event != other


def test_an_event_shows_what_was_sent() -> None:
    assert repr(Event("s", "k", "/p", {"a": 1}, "0123abcd", 7)) == "Event('s', 'k', '/p', {'a': 1})"


def test_the_time_is_no_part_of_what_makes_events_equal() -> None:
    event = Event("s", "k", "/p", 1, "0123abcd", 7, 1764192207.5)
    assert event.time == 1764192207.5
    assert event == Event("s", "k", "/p", 1, "0123abcd", 7)
    assert repr(event) == "Event('s', 'k', '/p', 1)"


@pytest.mark.parametrize(
    "field", ["", "0", "7", "1764192207000001", "9" * 19, "9" * 20, "-1", "+1", "1e3", "x"]
)
@pytest.mark.parametrize("before", ["", "1.2.3.", "...", "x.-1.+2.", "1.2."])
@pytest.mark.parametrize("after", ["", ".", ".8", ".x.y"])
def test_the_time_at_the_end_of_a_stamp_is_read_as_the_format_says(
    before: str, field: str, after: str
) -> None:
    rest = f"{before}{field}{after}".encode()
    event = Event("s", "k", "/p")
    event.raw_time = rest
    time = parse_stamp(b"0123abcd.7." + rest).time
    assert event.time == event.time == (None if time < 0 else time / 1e6)


def test_an_event_cannot_be_a_key_since_its_data_may_change() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Event("s", "k", "/p", {}))


def test_an_event_takes_no_further_fields() -> None:
    with pytest.raises(AttributeError):
        Event("s", "k", "/p").extra = 1  # type: ignore[attr-defined]


def test_a_gap_includes_both_its_ends() -> None:
    assert Gap("0123abcd", "s", "k", 5, 7).events == 3
    assert Gap("0123abcd", "s", "k", 5, 5).events == 1


def test_what_is_received_is_a_pair_that_also_has_names() -> None:
    event = Event("s", "k", "/p", 1)
    got = Received((event, True))
    assert got == (event, True)
    assert (got.event, got.ok) == tuple(got)
    evt, ok = got
    assert evt is event
    assert ok is True
    assert isinstance(got, tuple)
    assert pickle.loads(pickle.dumps(got)).ok


def test_the_end_is_a_pair_too() -> None:
    assert CLOSED == (None, False)
    assert (CLOSED.event, CLOSED.ok) == (None, False)


def test_annotations_work_while_a_program_runs() -> None:
    assert zbus.Event[int] is not zbus.Event
    assert zbus.Channel[int] is not None
    assert zbus.Subscription[int] is not None
    assert zbus.aio.Channel[int] is not None
    assert zbus.aio.Subscription[int] is not None
    assert get_args(zbus.Overflow) == ("drop", "block", "latest")
