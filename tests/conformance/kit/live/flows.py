"""What arrives: order, topics and data, batches, bytes, sizes, and what a `block` subscriber makes wait."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..driver import Driver, PeerError
from ..values import parse, same
from .stage import TOPIC, Stage, check, complete, exact

__all__ = ["batches", "block", "block_at_close", "data", "order", "sizes", "topics"]


_SLOW = 600.0  # seconds that a slow reader may take on a busy machine

_VALUES: tuple[dict[str, str], ...] = (
    {"json": '{"total":9.5,"items":["a","é","😀"],"none":null,"yes":true}'},
    {"json": "[1,2,[3,{}]]"},
    {"json": '"text"'},
    {"json": "-17"},
    {"json": "false"},
    {"json": "1e-7"},
    {"hex": "00010200ff"},
    {"hex": ""},
    {},
    {"json": "[]"},
    {"json": "{}"},
    {"json": '""'},
    {"json": '"\\u0000\\n"'},
)


def order(stage: Stage) -> None:
    """Events arrive in order and completely."""
    sub, pub = stage.subscriber(), stage.publisher()
    sent = stage.times(3000, 30_000)
    pub.ask("burst", count=sent, **TOPIC)
    complete(stage.tally(sub, sent), sent)


def data(stage: Stage) -> None:
    """Every form of data arrives as it was sent, bytes and no data too."""
    sub, pub = stage.subscriber(), stage.publisher()
    for value in _VALUES:
        pub.ask("send", **TOPIC, **value)
    told = sub.ask("receive", name="sub", count=len(_VALUES), timeout=stage.patience)
    events = told["events"]
    check("every event arrives", len(events) == len(_VALUES), told)
    for number, (event, value) in enumerate(zip(events, _VALUES, strict=True), 1):
        check("the data is what was sent", _same(event, value), value, event)
        check("numbers count from 1", event["seq"] == number, number, event)
        check("topic and path are those of the event", {name: event[name] for name in TOPIC} == TOPIC, event)
    origins = {event["origin"] for event in events}
    check(
        "all have the origin of the publisher",
        len(origins) == 1 and len(min(origins)) in range(8, 17),
        origins,
    )


def _same(event: dict[str, Any], value: dict[str, str]) -> bool:
    if "hex" in value:
        return bool(event.get("hex") == value["hex"])
    found, wanted = (None if side.get("json") is None else parse(side["json"]) for side in (event, value))
    return event.get("hex") is None and same(found, wanted)


def topics(stage: Stage) -> None:
    """A subscriber gets what its patterns select, and nothing else."""
    sub, pub = stage.subscriber("orders.*", kind="(new|gone)"), stage.publisher()
    sent = [
        (system, kind)
        for system in ("orders", "orders.eu", "orders.eu.de", "orders.주문", "order.eu", "ordersx.eu")
        for kind in ("new", "gone", "newer", "new.x", "old")
    ]
    for system, kind in sent:
        pub.ask("send", system=system, kind=kind, path="/p", json="1")
    pub.ask("send", system="orders.end", kind="gone", path="/end")
    wanted = [
        topic for topic in sent if topic[0] in ("orders.eu", "orders.주문") and topic[1] in ("new", "gone")
    ]
    told = sub.ask("receive", name="sub", count=len(wanted) + 1, timeout=stage.patience)
    found = [(event["system"], event["kind"]) for event in told["events"]]
    check("what is selected arrives, no more", found == [*wanted, ("orders.end", "gone")], found)
    check("nothing is lost", told["lost"] == 0, told)


def batches(stage: Stage) -> None:
    """Batches and single events share the numbers of their topic."""
    sub, pub = stage.subscriber(), stage.publisher()
    pub.ask("burst", count=1000, batch=7, **TOPIC)
    complete(stage.tally(sub, 1000), 1000)
    pub.ask("burst", count=100, **TOPIC)
    pub.ask("burst", count=10, batch=10, **TOPIC)
    exact(told := stage.tally(sub, 1110), 1110)
    check("nothing is lost", told["lost"] == 0, told)


def sizes(stage: Stage) -> None:
    """The largest frame arrives; one that is a byte larger is refused."""
    limit = 100_000
    sub, pub = stage.subscriber(max_event_bytes=limit), stage.publisher(max_event_bytes=limit)
    good, bad, sent = limit - 1000, limit, []
    check("bytes of the size of a frame are refused", not _sends(pub, bad), bad)
    while bad - good > 1:
        size = (good + bad) // 2
        if _sends(pub, size):
            good = size
            sent.append(size)
        else:
            bad = size
    check("nearly as many bytes as a frame may have are sent", good > limit - 150, good)
    pub.ask("send", **TOPIC, hex="ff")
    told = sub.ask("receive", name="sub", count=len(sent) + 1, timeout=stage.patience)
    found = [len(event["hex"]) // 2 for event in told["events"]]
    check("each arrives, and the connection stays", found == [*sent, 1], sent, found)
    check("nothing is lost", (told["lost"], told["malformed"]) == (0, 0), told["lost"], told["malformed"])


def _sends(pub: Driver, size: int) -> bool:
    try:
        pub.ask("send", **TOPIC, hex="78" * size)
        return True
    except PeerError as error:
        check("what is too large is Invalid", error.kind == "invalid", error)
        return False


def block(stage: Stage) -> None:
    """Nothing is lost with `block`: the publisher waits, and its `send` times out if nobody reads."""
    sub = stage.subscriber(overflow="block", capacity=10)
    pub = stage.publisher(send_timeout=100)
    sent = stage.times(4000, 20_000)
    pub.begin("burst", count=sent, bytes=300, **TOPIC)
    slow = sub.ask("slow", name="sub", pause=0.001, until=200, timeout=stage.patience)
    check("a slow reader loses nothing", (slow["received"], slow["lost"]) == (200, 0), slow)
    told = stage.tally(sub, sent)
    check("nothing is lost", (told["received"], told["lost"]) == (sent, 0), told)
    check("events arrive in order", told["ordered"] and told["last"] == sent, told)
    pub.answer()
    _times_out(stage, sub)


def _times_out(stage: Stage, sub: Driver) -> None:
    pub = stage.publisher(send_timeout=0.3)
    try:
        pub.ask("burst", count=10**6, bytes=300, **TOPIC)
        check("a send that nobody makes room for times out", False)
    except PeerError as error:
        check("it is a Timeout, and retryable", error.kind == "timeout" and error.retryable is True, error)
    events = _drained(stage, pub, sub)
    numbers = [event["seq"] for event in events if event["kind"] == "k"]
    check(
        "what was accepted has arrived, and what timed out took no number",
        numbers == [*range(1, len(events))],
    )


def _drained(stage: Stage, pub: Driver, sub: Driver) -> list[dict[str, Any]]:
    """Read until there is room for two more events; return all up to the second, which is of kind `end`."""
    events: list[dict[str, Any]] = []
    kinds = ["k", "end"]
    while not events or events[-1]["kind"] != "end":
        told = sub.ask(
            "receive", name="sub", count=500 if kinds else 1, timeout=0.2 if kinds else stage.patience
        )
        events += told["events"]
        check("nothing is lost", told["lost"] == 0, told["lost"], len(events))
        check("what was accepted arrives", bool(kinds or told["events"]), len(events))
        with suppress(PeerError):
            while kinds:
                pub.ask("send", system="s", kind=kinds[0], path="/p", json="0")
                kinds.pop(0)
    return events


def block_at_close(stage: Stage) -> None:
    """What a `block` publisher has sent arrives, though it closes and ends while the reader is slow."""
    sub = stage.subscriber(overflow="block", capacity=10)
    pub = stage.publisher(send_timeout=100, linger=_SLOW)
    sent = stage.times(1500, 5000)
    sub.begin("slow", name="sub", pause=0.001, until=sent, timeout=stage.patience)
    pub.ask("burst", count=sent, bytes=300, **TOPIC)
    stage.end(pub, 2 * _SLOW)
    complete(sub.answer(_SLOW), sent)
