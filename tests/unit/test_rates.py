"""Rates between two looks at a bus, and how they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import zbus
from zbus.cli.rate_table import rate_lines
from zbus.observe.rates import Rates, rates

from .published import channel, numbers, topic

LOOKED = 1_000.0
MEMBER = "0" * 16


def peer(told: zbus.Numbers | None, id: str = MEMBER) -> zbus.Peer:
    return zbus.Peer("shop.py", 7, "c", "member", "", [], True, {}, id, "me", [], id, told)


def between(first: zbus.Numbers | None, second: zbus.Numbers) -> Rates:
    return rates([peer(first)], [peer(second)], LOOKED)[MEMBER]


def test_a_rate_is_over_the_time_between_two_publications() -> None:
    first = numbers(999.5, (topic("a", 10, 1_000),), (channel(received=5, lost=1),))
    second = numbers(1_001.5, (topic("a", 30, 3_000),), (channel(received=9, lost=4, unread=1.5),))
    found = between(first, second)
    assert (found.seconds, found.events, found.bytes, found.received) == (2.0, 10.0, 1_000.0, 2.0)
    assert (found.lost, found.unread) == (3, 1.5)
    assert (found.by_topic[0].events, found.by_topic[0].bytes) == (10.0, 1_000.0)
    assert (found.by_channel[0].received, found.by_channel[0].lost) == (2.0, 3)


def test_a_process_that_was_idle_for_long_was_so_until_just_before_the_first_look() -> None:
    found = between(numbers(200.0, (topic("a", 10, 0),)), numbers(1_001.0, (topic("a", 30, 0),)))
    assert (found.seconds, found.events) == (2.0, 10.0)


def test_a_process_that_has_published_nothing_new_does_nothing() -> None:
    once = numbers(999.0, (topic("a", 10, 1),), (channel(received=5, lost=3, unread=2.0),))
    found = between(once, once)
    assert (found.events, found.bytes, found.received, found.lost, found.unread) == (0, 0, 0, 0, 2.0)


def test_a_process_that_is_new_began_at_0() -> None:
    assert between(None, numbers(1_001.0, (topic("a", 30, 0),), (channel(received=4),))).events == 15.0
    assert rates([], [peer(numbers(1_001.0, (topic("a", 30, 0),)))], LOOKED)[MEMBER].events == 15.0


def test_what_began_anew_has_no_negative_rate() -> None:
    first = numbers(1_000.0, (topic("a", 100, 9_000),), (channel(received=50, lost=9),))
    found = between(first, numbers(1_001.0, (topic("a", 1, 90),), (channel(received=1),)))
    assert (found.events, found.bytes, found.received, found.lost) == (0, 0, 0, 0)


def test_bytes_received_are_estimated_from_what_was_sent_to_those_topics() -> None:
    other = "1" * 16
    sent = [
        numbers(time, (topic("a", n, n * 100), topic("b", n, n * 7))) for time, n in ((999, 0), (1_001, 20))
    ]
    got = [numbers(time, (), (channel(received=n),)) for time, n in ((999, 0), (1_001, 10))]
    found = rates([peer(sent[0]), peer(got[0], other)], [peer(sent[1]), peer(got[1], other)], LOOKED)[other]
    assert (found.by_channel[0].bytes, found.received_bytes) == (500.0, 500.0)
    assert between(got[0], got[1]).received_bytes is None


def test_a_pattern_that_is_none_has_no_estimate() -> None:
    first, second = (
        numbers(time, (topic("a", n, n),), (channel(system="a..b"),)) for time, n in ((999, 1), (1_001, 2))
    )
    assert between(first, second).by_channel[0].bytes is None


def test_the_busiest_come_first() -> None:
    first = numbers(1_000.0, (topic("old", 900, 0), topic("new", 0, 0)), (channel(1), channel(2)))
    second = numbers(
        1_001.0, (topic("old", 901, 0), topic("new", 50, 0)), (channel(1), channel(2, received=5))
    )
    found = between(first, second)
    assert [row.system for row in found.by_topic] == ["new", "old"]
    assert [row.id for row in found.by_channel] == [2, 1]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
COUNT = st.integers(0, 2**64)


@given(
    st.lists(st.builds(topic, TEXT, COUNT, COUNT), max_size=12),
    st.lists(
        st.builds(
            channel,
            st.integers(1, 9),
            TEXT,
            received=COUNT,
            overflow=st.sampled_from(["drop", "block", "latest"]),
            unread=st.none() | st.floats(0, 1e300),
        ),
        max_size=12,
    ),
    st.sampled_from([None, 80, 100]),
)
def test_a_line_fits_into_80_columns_and_shows_every_name(
    topics: list[zbus.TopicNumbers], channels: list[zbus.ChannelNumbers], width: int | None
) -> None:
    second = numbers(1_001.0, tuple(topics), tuple(channels))
    found = rates([], [peer(second)], LOOKED)
    lines = [line for line, _ in rate_lines([peer(second)], found, width)]
    assert all(line.isprintable() for line in lines)
    if width is not None:
        assert max(map(cell_len, lines)) <= width
    shown = len(topics[:10]) + len(channels[:10])
    assert sum(line.startswith(("> ", "< ")) for line in lines) <= shown + 2


@pytest.mark.parametrize(
    ("events", "shown"),
    [(0, "0"), (1, "1"), (99_999, "99,999"), (100_000, "100k"), (1_234_567, "1.2M"), (10**18, "1.0E")],
)
def test_numbers_of_events_are_short(events: int, shown: str) -> None:
    second = numbers(1_000.0, (topic("a", events, 0),))
    _, line, *_ = (line for line, _ in rate_lines([peer(second)], rates([], [peer(second)], LOOKED), 80))
    assert line.split()[2] == shown


def test_who_tells_no_numbers_is_shown_without_and_who_is_dead_is_not() -> None:
    alone = peer(None)
    _, line = (line for line, _ in rate_lines([alone, alone._replace(alive=False)], {}, 80))
    assert line.split() == ["shop.py", "7", "-", "-", "-", "-", "-", "-"]
