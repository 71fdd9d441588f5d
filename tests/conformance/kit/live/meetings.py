"""Joins are strict both ways, also while others are busy."""

from __future__ import annotations

from ..driver import Driver
from .stage import Stage, check

__all__ = ["busy", "first_events", "joins", "strict_joins"]

_TOPIC = {"system": "s", "kind": "k", "path": "/p"}


def strict_joins(stage: Stage) -> None:
    """Every event sent after `subscribe` has returned arrives, while a publisher goes on sending."""
    pub, sub = stage.publisher(), stage.subscriber("other")
    stop = stage.root / "stop"
    pub.begin("stream", until=str(stop), interval=0.0005, **_TOPIC)
    told = sub.ask(
        "churn", system="s", kind="k", count=stage.times(20, 200), timeout=stage.patience, within=3600
    )
    stop.touch()
    pub.answer()
    for number, row in enumerate(told["rounds"], 1):
        check("nothing is lost at a join", row["lost"] == 0, number, row)
        check("nothing sent after the join is missing", row["prev"] <= row["joined"], number, row)


def joins(stage: Stage) -> None:
    """The first event of each new publisher arrives."""
    subs = _three(stage)
    count = stage.times(10, 100)
    stage.publisher().ask("joins", count=count, within=3600, **_TOPIC)
    for sub in subs:
        told = stage.tally(sub, count)
        check("each first event arrives", (told["received"], told["lost"]) == (count, 0), count, told)


def first_events(stage: Stage) -> None:
    """So does that of a new process, at three subscribers."""
    subs = _three(stage)
    count = stage.times(3, 10)
    for _ in range(count):
        pub = stage.publisher()
        pub.ask("send", json='{"n":1}', **_TOPIC)
        stage.end(pub)
    for sub in subs:
        told = sub.ask("receive", name="sub", count=count, timeout=stage.patience)
        origins = {event["origin"] for event in told["events"]}
        check("one event of each process arrives", len(origins) == len(told["events"]) == count, told)
        check("nothing is lost", told["lost"] == 0, told)


def _three(stage: Stage) -> list[Driver]:
    return [stage.subscriber(), stage.subscriber(), stage.witness()]


def busy(stage: Stage) -> None:
    """A subscriber whose user is busy accepts newcomers."""
    sub = stage.subscriber()
    sub.begin("busy", seconds=3)
    pub = stage.publisher()
    pub.ask("send", json='{"n":1}', **_TOPIC)
    stage.end(pub)
    sub.answer()
    told = sub.ask("receive", name="sub", count=1, timeout=stage.patience)
    check("the event sent meanwhile arrives", (told["received"], told["lost"]) == (1, 0), told)
