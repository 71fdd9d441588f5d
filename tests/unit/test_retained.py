"""Retained marks: how many a look tells, to whom, and that a look is short however many there are."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zbus.protocol.marks import Mark
from zbus.protocol.wire import Stamp
from zbus.receiving import retained
from zbus.receiving.retained import RetainedMarks

CAPACITY = 10


class Channel:
    """What `RetainedMarks` needs of a source. It can learn, waits for frames, or is busy with frames."""

    closing = False

    def __init__(self, state: str) -> None:
        self.state = state
        self.known: set[bytes] = set()
        self.asked = 0
        self.noted: list[Mark] = []
        self.decoder = SimpleNamespace(accounted=self.accounted)
        self.queue = SimpleNamespace(capacity=SimpleNamespace(events=CAPACITY))

    def accounted(self, mark: Mark) -> bool:
        self.asked += 1
        return mark.frame in self.known

    def note(self, mark: Mark) -> None:
        self.noted.append(mark)

    def learn(self, mark: Mark) -> bool:
        if self.state == "learns":
            self.known.add(mark.frame)
        return self.state == "waits"


def marks(count: int) -> list[Mark]:
    return [
        Mark((b"s", b"k%d" % number, b"0123abcd"), Stamp("0123abcd", 2, 1, 2, 1), b"%d" % number)
        for number in range(count)
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless it is set."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(retained, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def retain(clock: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RetainedMarks, list[bytes]]]:
    """Return marks retained for channels, and a list of those that are passed on to whoever waits."""
    monkeypatch.setattr(retained.housekeeping, "schedule", lambda *_: None)

    def begin(count: int, *channels: Any) -> tuple[RetainedMarks, list[bytes]]:
        sent: list[bytes] = []
        ours = RetainedMarks(lambda: [*channels], sent.append)
        ours.keep(marks(count))
        return ours, sent

    return begin


def test_a_look_tells_all_to_who_can_learn_and_forgets_them(retain: Any) -> None:
    channel = Channel("learns")
    ours, sent = retain(1_000, channel)
    ours.look()
    assert len(channel.known) == 1_000
    assert (len(ours._marks), sent) == (0, [])
    assert channel.noted == marks(1_000)


def test_a_look_ends_when_its_time_is_over_and_the_next_goes_on(retain: Any, clock: Any) -> None:
    channel = Channel("learns")
    learn, learned = channel.learn, []

    def slowly(mark: Mark) -> bool:
        clock.seconds += 0.001
        learned.append(mark)
        return learn(mark)

    channel.learn = slowly  # type: ignore[method-assign]
    ours, _ = retain(100, channel)
    ours.look()
    assert 5 < len(learned) < 20
    while ours._marks:
        ours.look()
    assert learned == marks(100)


def test_who_is_busy_with_frames_is_not_asked_again_in_the_same_look(retain: Any) -> None:
    channel = Channel("busy")
    ours, _ = retain(60_000, channel)
    ours.look()
    assert channel.asked <= 3
    assert len(ours._marks) == 60_000


def test_who_is_busy_holds_up_nobody(retain: Any) -> None:
    busy, other = Channel("busy"), Channel("learns")
    ours, _ = retain(1_000, busy, other)
    ours.look()
    assert len(other.known) == 1_000
    busy.state = "learns"
    ours.look()
    assert len(busy.known) == 1_000
    assert not ours._marks


def test_half_of_a_queue_at_a_time_is_passed_on_to_who_waits(retain: Any, clock: Any) -> None:
    channel = Channel("waits")
    ours, sent = retain(100, channel)
    ours.look()
    assert len(sent) == CAPACITY // 2
    ours.look()  # it has taken none of them yet
    assert len(sent) == CAPACITY // 2
    while ours._marks:
        channel.known.update(sent)
        ours.look()
    assert sorted(sent) == sorted(mark.frame for mark in marks(100))


def test_what_was_passed_on_and_dropped_is_passed_on_again(retain: Any, clock: Any) -> None:
    channel = Channel("waits")
    ours, sent = retain(1, channel)
    ours.look()
    ours.look()
    assert sent == [b"0"]
    clock.seconds += 1.0
    ours.look()
    assert sent == [b"0", b"0"]


def test_a_look_comes_soon_after_one_that_helped_and_ever_later_after_one_that_did_not(retain: Any) -> None:
    channel = Channel("waits")
    ours, _ = retain(100, channel)
    pauses = []
    for _ in range(4):
        ours.look()
        pauses.append(ours._pause)
    assert pauses == [0.002, 0.004, 0.008, 0.016]
