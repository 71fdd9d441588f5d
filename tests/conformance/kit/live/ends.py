"""Processes that are killed or stopped: the others go on, count exactly, and remove what is left."""

from __future__ import annotations

import shutil

from ..driver import Driver
from .stage import TOPIC, Stage, alive, check, complete, exact, until

__all__ = [
    "closed",
    "killed_publisher",
    "killed_subscriber",
    "remade",
    "stopped_publisher",
    "stopped_subscriber",
]

_OTHER = {"system": "s", "kind": "other", "path": "/p"}
_CAPACITY = 65_536  # of a subscription, unless it says otherwise
_OVERFLOW = 5000  # events that neither the kernel nor a publisher with a small capacity has room for


def closed(stage: Stage) -> None:
    """A peer that closes the bus leaves nothing there, and can open it again."""
    sub, pub = stage.subscriber(), stage.publisher()
    for _ in range(2):
        pub.ask("burst", count=10, **TOPIC)
        told = stage.tally(sub, 10)
        check("the events arrive", (told["received"], told["lost"]) == (10, 0), told)
        for driver in (pub, sub):
            driver.ask("close")
        stage.check_empty("files are left behind by who has closed the bus")
        for driver in (sub, pub):
            driver.ask("open", bus="live", linger=60.0)
        sub.ask("subscribe", name="sub", system="s")


def _reaped(stage: Stage) -> None:
    """Have another peer join; then end everyone: what the killed one left must be gone."""
    stage.another().ask("subscribe", name="sub", system="s")
    stage.publisher().ask("burst", count=1, **_OTHER)
    stage.finish()


def _streaming(stage: Stage, sub: Driver) -> Driver:
    """Start a publisher that sends until it is killed; return once something has arrived."""
    pub = stage.publisher()
    pub.begin("stream", until=str(stage.root / "never"), interval=0.0005, **TOPIC)
    told = sub.ask("receive", name="sub", count=50, timeout=stage.patience, tally=True)
    check("events arrive", told["received"] == 50, told)
    return pub


def killed_publisher(stage: Stage) -> None:
    """What others send arrives after a publisher was killed amid sending; its own numbers have no holes."""
    sub = stage.subscriber()
    pub = _streaming(stage, sub)
    stage.kill(pub)
    other = stage.publisher()
    other.ask("send", json='{"n":0}', **_OTHER)
    events = []
    while not events or events[-1]["kind"] != "other":
        told = sub.ask("receive", name="sub", count=1, timeout=stage.patience)
        check("a survivor's event arrives", len(told["events"]) == 1, told)
        events += told["events"]
    check("nothing that arrived in between is missing", told["lost"] == 0 and told["malformed"] == 0, told)
    other.ask("burst", count=100, **_OTHER)
    after = sub.ask("receive", name="sub", count=100, timeout=stage.patience, tally=True)
    check(
        "the survivor's events arrive", (after["first"], after["last"], after["lost"]) == (1, 100, 0), after
    )
    _reaped(stage)


def killed_subscriber(stage: Stage) -> None:
    """A publisher goes on when one of its subscribers is killed; the other gets everything."""
    sub, doomed = stage.subscriber(), stage.subscriber()
    pub = stage.publisher()
    sent = stage.times(2000, 10_000)
    pub.begin("burst", count=sent, interval=0.0002, **TOPIC)
    told = doomed.ask("receive", name="sub", count=20, timeout=stage.patience, tally=True)
    check("events arrive", told["received"] == 20, told)
    stage.kill(doomed)
    pub.answer()
    complete(stage.tally(sub, sent), sent)
    pub.ask("burst", count=10, **_OTHER)
    told = stage.tally(sub, sent + 10)
    check("later events arrive", (told["received"], told["lost"]) == (sent + 10, 0), told)
    _reaped(stage)


def stopped_publisher(stage: Stage) -> None:
    """While a publisher is stopped, others join and send; when it runs again, nothing is missing."""
    sub = stage.subscriber()
    pub = stage.publisher()
    stop = stage.root / "stop"
    pub.begin("stream", until=str(stop), interval=0.001, **TOPIC)
    told = sub.ask("receive", name="sub", count=50, timeout=stage.patience, tally=True)
    check("events arrive", told["received"] == 50, told)
    pub.stop()
    late, other = stage.another(), stage.publisher()
    late.ask("subscribe", name="sub", system="s")
    other.ask("burst", count=100, **_OTHER)
    pub.resume()
    told = late.ask("receive", name="sub", count=150, timeout=stage.patience, tally=True)
    check("the newcomer gets the events of both", (told["received"], told["lost"]) == (150, 0), told)
    stop.touch()
    sent = pub.answer()["sent"]
    exact(told := stage.tally(sub, sent + 100), sent + 100)
    check("nothing is lost", told["lost"] == 0, told)


def stopped_subscriber(stage: Stage) -> None:
    """Publishers go on while a subscriber is stopped. It is told later what it lost, in whichever queue."""
    sub, stopped = stage.subscriber(), stage.subscriber(kind="k", capacity=5)
    pub, small = stage.publisher(), stage.publisher(capacity=100)
    for publisher in (pub, small):
        publisher.ask("burst", count=1, **TOPIC)
    stopped.stop()
    sent = stage.times(5000, 200_000)
    sub.begin("receive", name="sub", until=sent + 2, timeout=stage.patience, tally=True)
    pub.ask("burst", count=sent, bytes=200, **TOPIC)
    exact(told := sub.answer(), sent + 2)
    check("the other loses nothing that its queue has room for", sent > _CAPACITY or told["lost"] == 0, told)
    small.ask("burst", count=_OVERFLOW, bytes=200, **TOPIC)
    late = stage.publisher()
    late.ask("burst", count=10, **_OTHER)
    stopped.resume()
    alive(stopped)
    exact(told := stage.tally(stopped, sent + _OVERFLOW + 2), sent + _OVERFLOW + 2)
    check("a queue of 5 cannot take so many", told["lost"] > 0, told)
    exact(stage.tally(sub, sent + _OVERFLOW + 12), sent + _OVERFLOW + 12)


def remade(stage: Stage) -> None:
    """Once somebody has removed the directory, those who were there and newcomers meet in a new one."""
    sub, pub = stage.subscriber(kind="k"), stage.publisher()
    sub.ask("subscribe", name="news", system="s", kind="other")
    pub.ask("burst", count=10, **TOPIC)
    complete(stage.tally(sub, 10), 10)
    gone = stage.directory.rename(stage.root / "gone")  # at once: nobody creates a file while it is removed
    shutil.rmtree(gone)
    late, other = stage.subscriber(kind="k"), stage.publisher()
    sent = _met(stage, pub, late, "sub", TOPIC)
    _met(stage, other, sub, "news", _OTHER)
    exact(told := stage.tally(sub, 10 + sent), 10 + sent)
    check("those who were there lose nothing", told["lost"] == 0, told)


def _met(stage: Stage, sender: Driver, receiver: Driver, name: str, topic: dict[str, str]) -> int:
    """Send until an event has arrived; return how many were sent."""
    sent = 0

    def arrived() -> bool:
        nonlocal sent
        sender.ask("send", **topic)
        sent += 1
        return bool(receiver.ask("receive", name=name, count=1, timeout=0.1)["events"])

    until("the two find each other", arrived, stage.patience)
    return sent
