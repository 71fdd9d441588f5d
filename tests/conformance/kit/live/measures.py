"""The verbs that benchmarks use do what their figures stand for."""

from __future__ import annotations

from ..driver import Driver
from .stage import Stage, check

__all__ = ["echo", "speed"]

_THERE = {"system": "s", "kind": "there"}
_BACK = {"system": "s", "kind": "back"}
_DATA = '{"n":0}'


def echo(stage: Stage) -> None:
    """`ping` waits for each echo, and `echo` sends back what it receives."""
    echoes, pings, heard = stage.subscriber(kind="there"), stage.publisher(), stage.witness()
    pings.ask("subscribe", name="sub", **_BACK)
    count, limit = stage.times(50, 1000), stage.times(1, 10) * stage.patience
    echoes.begin("echo", name="sub", count=count, **_BACK)
    micros = pings.ask("ping", name="sub", count=count, within=limit, **_THERE)["micros"]
    echoes.answer(limit)
    check("each round trip is told", len(micros) == count and min(micros) > 0, micros)
    events = heard.ask("receive", name="sub", count=2 * count, timeout=stage.patience)["events"]
    there, back = ([event["json"] for event in events if event["kind"] == kind] for kind in ("there", "back"))
    check("each ping has one echo, with its data", len(there) == count and there == back, there, back)
    for driver, sender, topic in ((echoes, pings, _THERE), (pings, echoes, _BACK)):
        _next(stage, driver, sender, topic, count + 1)


def _next(stage: Stage, receiver: Driver, sender: Driver, topic: dict[str, str], number: int) -> None:
    """Send an event. It must have this number, and be the next that the receiver gets."""
    sender.ask("send", path="/p", json=_DATA, **topic)
    (event,) = receiver.ask("receive", name="sub", count=1, timeout=stage.patience)["events"]
    check("so many were sent and taken before", event["seq"] == number, number, event)


def speed(stage: Stage) -> None:
    """`speed` sends and takes exactly what is asked for, single events and batches."""
    sub, heard = stage.subscriber(capacity=10_000), stage.witness()
    pub = stage.publisher()
    count = stage.times(2000, 5000)
    for number, options in enumerate(({}, {"batch": 100}), 1):
        asked = {**_THERE, "path": "/p", "count": count, "bytes": 100, **options}
        sub.begin("speed", role="receive", name="sub", **asked)
        sent = pub.ask("speed", role="send", **asked)
        took = sub.answer(stage.patience)
        check("both take some time", sent["seconds"] > 0 and took["seconds"] > 0, sent, took)
        _next(stage, sub, pub, _THERE, number * (count + 1))
        told = stage.tally(heard, number * (count + 1))
        check("nothing is lost", (told["received"], told["lost"]) == (number * (count + 1), 0), told)
