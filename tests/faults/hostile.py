"""Faults 9 and 10: too large an event, and a peer that asks for too much."""

from __future__ import annotations

import time
from collections.abc import Iterator

import zbus

from .foreign import Ingress, Publisher
from .fuzz import Scene, new_id
from .harness import Row, Stage, brief, resident_mib, until
from .kills import complete, finish, start

_LIMIT = 100_000
_TOPIC_BYTES = 250


def too_large(stage: Stage) -> Iterator[Row]:
    row = stage.row("an event of limit + 1 bytes")
    scene = Scene(stage, limit=_LIMIT)
    with zbus.Bus(dir=stage.dir, max_event_bytes=_LIMIT) as bus:
        sub = bus.subscribe("large")
        refused = _refusal(bus, _LIMIT)
        overhead = refused.details["bytes"] - _LIMIT
        bus.send("large", "k", "/fits", bytes(_LIMIT - overhead))
        over = _refusal(bus, _LIMIT - overhead + 1)
        row.equal("size of what is refused", over.details, {"bytes": _LIMIT + 1, "limit": _LIMIT})
        bus.send("large", "k", "/next")
        found = [next(iter(sub)) for _ in range(2)]
        row.equal("what arrived", [(evt.path, evt.seq) for evt in found], [("/fits", 1), ("/next", 2)])
        row.show(f"`{type(over).__name__}`: “{str(over).partition(':')[0]}”")
    row.done = "the limit exactly, then one byte more"

    cut = stage.row("a raw frame of limit + 1 bytes from a foreign peer")
    for path in scene.sockets:
        stamp = f"ping\0large\0/\0{new_id(stage.random)}"
        before = _counted(stage, scene)["lost"]
        with Publisher(path) as peer:
            peer.socket.send(f"{stamp}.1\0".encode())
            scene.ping(peer)
            peer.socket.send(f"{stamp}.2\0\0".encode().ljust(_LIMIT + 1, b"x"))
            cut.claim("its connection was not cut", peer.cut())
        with Publisher(path) as peer:
            peer.socket.send(f"{stamp}.3\0".encode())
            scene.ping(peer)
        cut.equal("counted as lost", _counted(stage, scene)["lost"] - before, 1)
    cut.show("counted: 1 lost each, by its number")
    scene.relink(cut)
    scene.end(cut)
    cut.done = "to the `drop` and the `block` ingress of a member"
    row.lost = "the event, by an exception"
    yield row
    yield cut


def _refusal(bus: zbus.Bus, size: int) -> zbus.Error:
    try:
        bus.send("large", "k", "/fits", bytes(size))
    except zbus.Error as error:
        return error
    raise AssertionError(f"{size} bytes went through")


def _counted(stage: Stage, scene: Scene) -> dict[str, int]:
    """Return the victim's counters, as anybody can read them."""
    [counters] = [p.counters for p in stage.peers() if p.counters and p.pid == scene.victim.pid]
    return counters


def topic(number: int) -> str:
    return f"t{number}.".ljust(_TOPIC_BYTES, "x")


def too_many(stage: Stage) -> Iterator[Row]:
    yield _by_the_api(stage)
    yield _by_a_raw_socket(stage)


def _by_the_api(stage: Stage) -> Row:
    row = stage.row("subscriptions to 100,000 topics of 250 bytes, through the API")
    listener, load = stage.spawn("listen").ready(), stage.spawn("load", 500).ready()
    start(load, "go")
    greedy = stage.spawn("greedy", 100_000, _TOPIC_BYTES, stage.size(120, 90)).ready()
    report = greedy.hear(180)
    quota = "no quota" if not report["error"] else f"refused after {report['held']:,}"
    row.show(f"{quota} in {report['took']:.1f} s: “{brief(report['error']) or 'still going on'}”")
    row.claim(f"not refused with a named reason: {report['error']!r}", report["named"])
    row.claim("a quota is told in numbers", any(isinstance(n, int) for n in report["details"].values()))
    greedy.tell("close one")
    row.equal("after one is closed", greedy.hear()["error"], "")
    _, [found] = finish(load, [listener])
    beside = complete(row, found)
    row.end(greedy, listener, load)
    row.done = "one process subscribes until it is refused"
    row.lost = f"{beside} beside it"
    return row


def _by_a_raw_socket(stage: Stage) -> Row:
    row = stage.row("subscriptions to 100,000 topics of 250 bytes, by a raw socket")
    count = stage.size(100_000, 10_000)
    listener, load = stage.spawn("listen").ready(), stage.spawn("load", 500).ready()
    start(load, "go")
    base = resident_mib(load.pid)
    topics = [topic(number).encode() for number in range(count)]
    with Ingress(stage.path, [b"stream\0", *topics], new_id(stage.random)) as offender:
        before = time.monotonic()
        offender.announce()
        until(lambda: offender.received, 60, "an event from the publisher")
        row.show(f"linked after {time.monotonic() - before:.1f} s")
        held = resident_mib(load.pid) - base
        # Publishers look at what they are sent when the roster changes; this comes in between.
        offender.send(prefix + name.encode() for name in _others(count) for prefix in (b"\1", b"\0"))
        until(offender.idle.is_set, 60, "sent as many again")
        start(load, "more")
        unread = resident_mib(load.pid) - base
    start(load, "left")
    stage.join()
    start(load, "seen")
    after = resident_mib(load.pid) - base
    report, [found] = finish(load, [listener])
    beside = complete(row, found)
    row.show(f"a publisher grows by {held:.0f} MiB, by {unread:.0f} MiB once as many come and go again")
    row.show(f"keeps {after:.0f} MiB when it left")
    row.show(f"slowest send {report['slowest_ms']:,.0f} ms")
    row.end(listener, load)
    row.done = f"{count:,} at the join, then {count:,} subscribed and unsubscribed again"
    row.lost = f"{beside} beside it"
    return row


def _others(count: int) -> Iterator[str]:
    return (topic(number) for number in range(count, 2 * count))
