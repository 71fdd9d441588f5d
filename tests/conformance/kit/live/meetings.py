"""Joins are strict both ways, also while others are busy."""

from __future__ import annotations

from ..driver import Driver
from .stage import TOPIC, Stage, check

__all__ = ["busy", "first_events", "joins", "strict_joins"]

_BUSY_SECONDS = (3, 6, 12, 24, 48)  # the next one only if all of it went by before the event was sent


def strict_joins(stage: Stage) -> None:
    """Every event sent after `subscribe` has returned arrives, while a publisher goes on sending."""
    pub, sub = stage.publisher(), stage.subscriber("other")
    stop = stage.root / "stop"
    pub.begin("stream", until=str(stop), interval=0.0005, **TOPIC)
    told = sub.ask(
        "churn", system="s", kind="k", count=stage.times(20, 200), timeout=stage.patience, within=3600
    )
    stop.touch()
    pub.answer()
    for number, row in enumerate(told["rounds"], 1):
        check("nothing is lost at a join", row["lost"] == 0, number, row)
        check("nothing sent after the join is missing", row["prev"] <= row["joined"], number, row)


def joins(stage: Stage) -> None:
    """The first event of each new publisher arrives, while the subscribers get a stream of others."""
    subs, stop = _three(stage), stage.root / "stop"
    for sub in subs:
        sub.ask("subscribe", name="others", system="others")
    others = stage.publisher()
    others.begin("stream", until=str(stop), interval=0.0005, **{**TOPIC, "system": "others"})
    count = stage.times(10, 100)
    stage.publisher().ask("joins", count=count, within=3600, **TOPIC)
    stop.touch()
    others.answer()
    for sub in subs:
        told = stage.tally(sub, count)
        check("each first event arrives", (told["received"], told["lost"]) == (count, 0), count, told)


def first_events(stage: Stage) -> None:
    """So does that of a new process, at three subscribers."""
    subs = _three(stage)
    count = stage.times(3, 10)
    for _ in range(count):
        pub = stage.publisher()
        pub.ask("send", json='{"n":1}', **TOPIC)
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
    for sent, seconds in enumerate(_BUSY_SECONDS, 1):
        pub = stage.publisher()
        sub.begin("busy", seconds=seconds)
        pub.ask("send", json='{"n":1}', **TOPIC)
        meanwhile = not sub.answered
        stage.end(pub)
        sub.answer()
        told = stage.tally(sub, sent)
        check("the event arrives", (told["received"], told["lost"]) == (sent, 0), told)
        if meanwhile:
            return
    check("it was sent while the subscriber was busy", False, _BUSY_SECONDS)
