"""What the page of `zbus web` is told: topics and values in bounded memory, and browsers the newest state."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from zbus.event import Event, Gap
from zbus.observe.snapshot import Snapshot, TopicRow
from zbus.protocol.loss import Stream
from zbus.runtime.threads import run_in_thread
from zbus.web.model import PATH_BYTES, TOPICS_KEPT, VALUE_BYTES, Model, text_of
from zbus.web.viewer import Viewer

STREAM = Stream((b"a.b", b"k", b"0123456789abcdef"), True)
OTHER = Stream((b"a.c", b"k", b"0123456789abcdef"), True)
ID, SYSTEM, KIND, RECEIVED, MISSED, RATE, BYTES, TIME, PATH, VALUE, WHOLE, SIZE, PUBLISHERS, *_ = range(16)


def item(seq: int, data: bytes = b"1", stream: Stream = STREAM) -> Any:
    return stream, seq, b"/%d" % seq, b"1.2.3.1000000.", data


def event(system: str, data: Any) -> Event:
    return Event(system, "k", "/e", data, "0123456789abcdef", 1)


def seen(*rows: tuple[str, tuple[str, ...]]) -> Snapshot:
    topics = [TopicRow(system, "k", 1.0, 20.0, 20.0, 5, who, (), None, 0) for system, who in rows]
    return Snapshot("shop", "/run/zbus/v1/shop", 0.0, (), tuple(topics))


def settled(model: Model) -> list[list[Any]]:
    """Return the rows of the topics that have changed."""
    changed, _ = model.changes()
    topics = [*map(model.topic, changed)]
    return [topic.row() for topic in topics if topic is not None]


def test_of_many_events_the_latest_is_shown_and_all_are_counted() -> None:
    model = Model("*", None)
    model.fold([item(1), item(2, b"2"), item(1, b'"x"', OTHER), event("a.b", {"n": 3})], 9.0)
    model.fold([item(4, b"4")], 10.0)
    first, second = settled(model)
    assert first[: RECEIVED + 1] == [1, "a.b", "k", 4]
    assert (first[TIME], first[PATH], first[VALUE], first[SIZE]) == (1.0, "/4", "4", 1)
    assert (second[SYSTEM], second[RECEIVED], second[VALUE]) == ("a.c", 1, '"x"')
    assert settled(model) == []


def test_an_event_that_came_decoded_last_is_the_latest() -> None:
    model = Model("*", None)
    model.fold([item(1), item(2), event("a.b", {"n": 3})], 9.0)
    [row] = settled(model)
    assert (row[RECEIVED], row[PATH], row[VALUE]) == (3, "/e", '{"n":3}')
    assert row[TIME] == 9.0  # it tells none, so it is that of its arrival


def test_what_the_page_missed_is_counted_with_its_topic() -> None:
    model = Model("*", None)
    model.fold([item(1), Gap("0123456789abcdef", "a.b", "k", 2, 8), item(9)], 1.0)
    [row] = settled(model)
    assert (row[RECEIVED], row[MISSED], model.missed) == (2, 7, 7)


def test_a_rate_counts_what_came_and_what_was_missed_in_the_last_second() -> None:
    model = Model("*", None)
    model.fold([item(1), Gap("0123456789abcdef", "a.b", "k", 2, 8), item(9)], 1.0)
    assert settled(model)[0][RATE] is None
    model.turn(2.0)
    assert (settled(model)[0][RATE], model.rate) == (4.5, 4.5)
    model.turn(1.0)
    assert (settled(model)[0][RATE], model.rate) == (0.0, 0.0)
    model.turn(1.0)
    assert not model.is_changed


def test_the_roster_adds_who_sends_and_what_was_sent_before() -> None:
    model = Model("a.**", None)
    model.fold([item(1)], 1.0)
    model.see(seen(("a.b", ("x", "y")), ("a.old", ()), ("b", ())))
    rows = {row[SYSTEM]: row for row in settled(model)}
    assert {*rows} == {"a.b", "a.old"}  # the pattern selects no more
    assert (rows["a.b"][PUBLISHERS], rows["a.b"][BYTES]) == (2, 20.0)
    model.see(seen())
    assert {row[SYSTEM]: row[PUBLISHERS] for row in settled(model)} == {"a.b": 0, "a.old": 0}


def test_only_the_beginning_of_a_large_value_is_kept() -> None:
    model = Model("*", None)
    model.fold([item(1, b'"' + b"x" * 100_000 + b'"')], 1.0)
    [row] = settled(model)
    topic = model.topic(row[ID])
    assert topic is not None
    assert len(topic.value) == VALUE_BYTES
    assert (row[WHOLE], row[SIZE]) == (False, 100_002)
    assert topic.detail()["value"] == '"' + "x" * (VALUE_BYTES - 1)


def test_only_the_beginning_of_a_long_path_is_kept() -> None:
    long = "/" + "é" * 100_000
    model = Model("*", None)
    model.fold([(STREAM, 1, long.encode(), b"1.2.3.1000000.", b"1")], 1.0)
    model.fold([Event("a.c", "k", long, None, "0123456789abcdef", 1)], 1.0)
    for row in settled(model):
        assert row[PATH].startswith("/éé")
        assert row[PATH].endswith("…")
        assert len(row[PATH].encode()) < PATH_BYTES + 10
    model.fold([(STREAM, 2, b"/" * PATH_BYTES, b"1.2.3.1000000.", b"1")], 1.0)
    assert settled(model)[0][PATH] == "/" * PATH_BYTES


@pytest.mark.parametrize(
    ("data", "text", "whole"),
    [
        (b"", "", True),
        (b'{"a":1}', '{"a":1}', True),
        (b"\0\x01\xff", "<2 bytes> 01ff", True),
        (b"\0" + bytes(100), "<100 bytes> " + "00" * 15, False),
        ("é".encode() * 20, "é" * 16, False),
        (b"\xff\xfe", "��", True),
    ],
)
def test_data_as_text(data: bytes, text: str, whole: bool) -> None:
    assert text_of(data, len(data), 32) == (text, whole)


def test_topics_that_are_silent_for_longest_are_forgotten() -> None:
    model = Model("*", None)
    model.fold([event("old", 0)], 1.0)
    model.turn(1.0)
    model.fold([event(f"new.n{number}", number) for number in range(TOPICS_KEPT)], 2.0)
    assert len(model) <= TOPICS_KEPT
    assert model.full
    _, gone = model.changes()
    assert 1 in gone
    assert model.topic(1) is None
    model.see(seen(*((f"more.n{number}", ()) for number in range(1_000))))
    assert len(model) <= TOPICS_KEPT


async def test_a_browser_gets_the_newest_state_not_each_one() -> None:
    model = Model("*", None)
    viewer = Viewer({"bus": "shop"}, model)
    for number in range(1, 100):
        model.fold([item(number, b"%d" % number)], 1.0)
        viewer.note(*model.changes(), {"missed": number})
    message = told(viewer)
    assert [row[VALUE] for row in message["topics"]] == ["99"]
    assert (message["about"], message["bus"], message["now"]) == ({"bus": "shop"}, {"missed": 99}, 5.0)
    assert viewer.newest(6.0) is None


async def test_of_many_topics_each_gets_its_turn() -> None:
    model = Model("*", None)
    viewer = Viewer({}, model)
    topics = 2_500
    told_of: set[int] = set()
    for _ in range(3):  # all of them change all the time
        model.fold([event(f"n{number}", 1) for number in range(topics)], 1.0)
        viewer.note(*model.changes(), None)
        rows = told(viewer)["topics"]
        assert len(rows) <= 1_000
        told_of |= {row[ID] for row in rows}
    assert len(told_of) == topics


async def test_a_browser_that_takes_nothing_costs_no_more_with_time() -> None:
    model = Model("*", None)
    viewer = Viewer({}, model)
    model.fold([item(1)], 1.0)
    viewer.note(*model.changes(), None)
    assert [row[SYSTEM] for row in told(viewer)["topics"]] == ["a.b"]
    for turn in range(3):  # each time other topics, so those before are forgotten
        model.turn(1.0)
        model.fold([event(f"t{turn}.n{number}", 1) for number in range(TOPICS_KEPT)], 1.0)
        viewer.note(*model.changes(), None)
    message = told(viewer)
    assert message["gone"] == [1]  # the only one that this browser knew
    told_of = len(message["topics"])
    while (news := viewer.newest(5.0)) is not None:
        told_of += len(json.loads(news.removeprefix(b"data: "))["topics"])
    assert told_of == len(model) <= TOPICS_KEPT


async def test_a_browser_can_be_woken_from_a_thread_and_after_the_loop() -> None:
    viewer = Viewer({}, Model("*", None))
    await run_in_thread("wake", viewer.wake)
    async with asyncio.timeout(60):
        await viewer.news.wait()


def test_to_wake_a_browser_that_is_gone_does_nothing() -> None:
    async def made() -> Viewer:
        return Viewer({}, Model("*", None))

    asyncio.run(made()).wake()


def told(viewer: Viewer) -> dict[str, Any]:
    news = viewer.newest(5.0)
    assert news is not None
    assert news.startswith(b"data: ")
    assert news.endswith(b"\n\n")
    found: dict[str, Any] = json.loads(news.removeprefix(b"data: "))
    return found
