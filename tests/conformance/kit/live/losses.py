"""What is lost is counted exactly: full queues, single events and batches, at rest and at the end."""

from __future__ import annotations

from .stage import Stage, check, exact

__all__ = ["loss_at_close", "loss_at_rest", "loss_in_batches", "loss_of_slow"]

_TOPIC = {"system": "s", "kind": "k", "path": "/p"}
_CAPACITY = 5
_SENT = 20_000


def loss_at_rest(stage: Stage) -> None:
    """A reader that takes nothing until the publisher rests is told what it lost."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=_SENT, **_TOPIC)
    told = stage.tally(sub, _SENT)
    exact(told, _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)
    pub.ask("burst", count=_SENT, **_TOPIC)
    exact(stage.tally(sub, 2 * _SENT), 2 * _SENT)


def loss_at_close(stage: Stage) -> None:
    """It is told, too, once the publisher has closed and ended."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=_SENT, **_TOPIC)
    stage.end(pub)
    told = stage.tally(sub, _SENT)
    exact(told, _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)


def loss_in_batches(stage: Stage) -> None:
    """A batch counts for as many events as it holds."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    pub.ask("burst", count=10 * _SENT, batch=10, **_TOPIC)
    told = stage.tally(sub, 10 * _SENT)
    exact(told, 10 * _SENT)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)


def loss_of_slow(stage: Stage) -> None:
    """A reader that reads, but slowly, counts what it misses between."""
    sub, pub = stage.subscriber(capacity=_CAPACITY), stage.publisher()
    sent = stage.times(3000, 20_000)
    sub.begin("slow", name="sub", pause=0.002, until=sent, timeout=stage.patience)
    pub.ask("burst", count=sent, **_TOPIC)
    exact(sub.answer(3600), sent)
