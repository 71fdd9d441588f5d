"""A publisher at rest: that it goes through its topics seldom, and forgets none of them at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
import zmq

from zbus.protocol.marks import Topic
from zbus.protocol.wire import TWIN
from zbus.runtime.locks import Lock
from zbus.sending import tails
from zbus.sending.tails import Tails
from zbus.sending.time_field import TimeField

TOPICS = 1_000
ROOM = 40


class Links:
    """Links with room for some frames, and then for none."""

    left_out = False
    block = None
    room: float = 0

    def __init__(self) -> None:
        self.returned: set[str] = set()
        self.sent: list[bytes] = []

    def drop(self, frame: bytes) -> None:
        if self.room <= 0:
            raise zmq.Again
        self.room -= 1
        self.sent.append(frame)

    def process_commands(self) -> None:
        """There is no news of room."""

    def lossy(self) -> set[str]:
        return set()

    threads = process_commands


class Publisher:
    settled_token = 0
    closed = ""
    block = drop = None

    def __init__(self) -> None:
        self.lock = Lock()
        self.time = TimeField()


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
def ours(links: Links, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tails of many topics that have had one event each; `rounds` shows how often it went through them."""

    def topics() -> list[Topic]:
        made.rounds.append(1)
        return every

    def flushing(*_: object) -> Iterator[float]:
        links.room = ROOM
        yield from ()

    monkeypatch.setattr(tails.housekeeping, "schedule", lambda *_: None)
    monkeypatch.setattr(tails, "flushing", flushing)
    every = [topic(b"k%d" % number) for number in range(TOPICS)]
    made: Any = Tails(Publisher(), links, topics)  # type: ignore[arg-type]
    made.rounds = []
    return made


def topic(kind: bytes) -> Topic:
    made = Topic(1)
    made.template = b"s\0%b\0%%b\0abcd.%%d.1.2.1%%b\0%%b" % kind
    made.seq = 1
    return made


def told(links: Links) -> list[bytes]:
    """Return the topics of the marks that were sent; each has a twin right behind it."""
    assert links.sent[1::2] == [TWIN + mark for mark in links.sent[::2]]
    return sorted(mark.split(b"\0")[1] for mark in links.sent[::2])


EVERY = sorted(b"k%d" % number for number in range(TOPICS))


def by_looks(ours: Any, links: Links) -> None:
    for _ in range(2 * TOPICS // ROOM):
        links.room = ROOM
        ours._look_locked()


def by_closing(ours: Any, links: Links) -> None:
    ours.finish(inf)


@pytest.mark.parametrize("send", [by_looks, by_closing])
def test_topics_are_gone_through_once_however_small_the_queue_is(
    ours: Any, links: Links, send: Callable[[Any, Links], None]
) -> None:
    send(ours, links)
    assert told(links) == EVERY
    assert len(ours.rounds) <= 2


def test_a_close_that_cannot_wait_tells_of_what_was_owed_and_of_all_else(ours: Any, links: Links) -> None:
    ours.retire([topic(b"old"), topic(b"older")])
    links.room = inf
    ours.finish(0.0)
    assert told(links) == sorted([*EVERY, b"old", b"older"])


def test_a_look_that_was_owed_marks_comes_back_for_all_else(
    ours: Any, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(tails.housekeeping, "schedule", lambda _, seconds: pauses.append(seconds))
    ours.retire([topic(b"old"), topic(b"older")])
    links.room = inf
    while pauses or not links.sent:
        pauses.clear()
        ours._look_locked()
    assert told(links) == sorted([*EVERY, b"old", b"older"])
