"""What is lost is counted exactly: full queues, single events and batches, at rest and at the end."""

from __future__ import annotations

from typing import Any

from ..driver import Driver
from .stage import TOPIC, Stage, check, exact

__all__ = ["MAX_TOPICS", "loss_at_close", "loss_at_rest", "loss_in_batches", "loss_of_slow", "many_topics"]

_CAPACITY = 5
_SENT = 20_000
_AT_ONCE = 1000
MAX_TOPICS = 65_536  # of an origin


def loss_at_rest(stage: Stage) -> None:
    """A reader that takes nothing until the publisher rests is told what it lost, of each topic."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=_SENT, **TOPIC)
    told = stage.tally(sub, _SENT)
    exact(told, _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)
    pub.ask("burst", count=_SENT, **TOPIC)
    for kind in ("few", "fewer"):
        pub.ask("burst", count=3, **{**TOPIC, "kind": kind})
    exact(stage.tally(sub, 2 * _SENT + 6), 2 * _SENT + 6)


def loss_at_close(stage: Stage) -> None:
    """It is told, too, once the publisher has closed and ended."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=_SENT, **TOPIC)
    stage.end(pub)
    told = stage.tally(sub, _SENT)
    exact(told, _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)


def loss_in_batches(stage: Stage) -> None:
    """A batch counts for as many events as it holds."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=10 * _SENT, batch=10, **TOPIC)
    told = stage.tally(sub, 10 * _SENT)
    exact(told, 10 * _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)


def loss_of_slow(stage: Stage) -> None:
    """A reader that reads, but slowly, counts what it misses between."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    sent = stage.times(3000, 20_000)
    sub.begin("slow", name="sub", pause=0.002, until=sent, timeout=stage.patience)
    pub.ask("burst", count=sent, **TOPIC)
    exact(sub.answer(3600), sent)


def many_topics(stage: Stage) -> None:
    """A publisher takes a new origin before topic 65,537, and what is lost is still counted exactly."""
    topics = [{"system": "s", "kind": f"old.{n}", "path": "/p"} for n in range(MAX_TOPICS - 100)]
    topics += [{"system": "s", "kind": f"new.{n}", "path": "/p"} for n in range(200)]
    room = 3 * MAX_TOPICS  # for the events, and for a mark of each topic, should the publisher rest amid them
    sub = stage.subscriber(capacity=room)
    full = stage.subscriber(kind="new.*", capacity=_CAPACITY)
    pub = stage.publisher(capacity=room)
    for first in range(0, len(topics), _AT_ONCE):
        pub.ask_all("send", topics[first : first + _AT_ONCE])
    events = _received(stage, sub, len(topics))
    check("all arrive, in order", [e["kind"] for e in events] == [topic["kind"] for topic in topics])
    check("each topic begins with 1", {event["seq"] for event in events} == {1})
    first, last = ({event["origin"] for event in part} for part in (events[:MAX_TOPICS], events[MAX_TOPICS:]))
    check("one origin has so many, the others have a new one", len(first) == len(last) == 1, first, last)
    check("it is another", first != last, first)
    exact(told := stage.tally(full, 200), 200)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)
    pub.ask("send", **topics[0])
    (again,) = _received(stage, sub, 1)
    check("a former topic begins again, too", ({again["origin"]}, again["seq"]) == (last, 1), again)


def _received(stage: Stage, sub: Driver, count: int) -> list[dict[str, Any]]:
    """Receive so many events, some at a time."""
    events: list[dict[str, Any]] = []
    while len(events) < count:
        asked = min(_AT_ONCE, count - len(events))
        told = sub.ask("receive", name="sub", count=asked, timeout=stage.patience)
        check("each event arrives", told["lost"] == 0 and told["events"], told["lost"], len(events))
        events += told["events"]
    return events
