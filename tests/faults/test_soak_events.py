"""The second opinions of the soak: on patterns, on queues, and on what an event should be."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from .soak_events import TOPICS, data_of, identify, path_of, queues, selects


@pytest.mark.parametrize(
    ("pattern", "name", "selected"),
    [
        ("*", "a.b", True),
        ("a", "a", True),
        ("a", "a.b", False),
        ("a.*", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.**", "a", True),
        ("a.**", "a.b.c", True),
        ("a.**", "ab", False),
        ("a.(b|c)", "a.c", True),
        ("a.(b|c)", "a.d", False),
        ("**.c", "a.b.c", True),
        ("*.c", "c", False),
    ],
)
def test_the_second_opinion_on_patterns(pattern: str, name: str, selected: bool) -> None:
    assert selects(pattern, name) is selected


@pytest.mark.parametrize(
    ("system", "kind", "topics"),
    [
        ("*", "*", TOPICS),
        ("**", "order.paid", TOPICS),
        ("soak", "tick", {("soak", "tick")}),
        ("metrics", "*", {("metrics", "cpu"), ("metrics", "memory")}),
        ("soak.**", "stock", {topic for topic in TOPICS if topic[0].startswith("soak")}),
        ("(metrics|tool)", "cpu", TOPICS),
    ],
)
def test_what_takes_room_in_a_queue(system: str, kind: str, topics: Collection[tuple[str, str]]) -> None:
    found = [topic for number, topic in enumerate(TOPICS) if queues(system, kind, number)]
    assert found == [topic for topic in TOPICS if topic in topics]


@pytest.mark.parametrize("raw", [True, False])
def test_an_event_tells_what_it_should_be(raw: bool) -> None:
    data = data_of(7, 499, raw)
    assert identify(path_of(7, 499), data) == (7, 499, True)
    assert identify(path_of(7, 498), data) == (7, 498, False)
    assert identify(path_of(7, 499), data[:-1] if raw else {**data, "text": ""}) == (7, 499, False)
    assert identify("/other", None) == (0, 0, False)
