"""The driver of the Python package: a JSON line is a request, and one is its answer.

See docs/howto/conform.md. It also shows what a driver in another language has to do.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import zmq
from rules import RULES, data_of, name_of, told

import zbus

Fields = dict[str, Any]
_LOOK_SECONDS = 0.05
_PATH = "/conform"


def _micros() -> int:
    return time.monotonic_ns() // 1000


class Received:
    """One subscription, and what it has received so far."""

    def __init__(self, sub: zbus.Subscription) -> None:
        self.sub = sub
        self.count = 0
        self.open = True

    def take(self, seconds: float) -> zbus.Event | None:
        """Return the next event, or `None` if none comes in that time or the channel has ended."""
        try:
            evt, ok = self.sub.channel().receive(timeout=seconds)
        except zbus.Timeout:
            return None
        self.open = ok
        if ok:
            self.count += 1
        return evt

    def each(self, most: float, until: float, timeout: float) -> Iterator[zbus.Event]:
        """Yield events until there are so many, or so many received and lost; or until nothing goes on."""
        channel = self.sub.channel()
        got = 0
        progress = time.monotonic()
        seen = (self.count, channel.lost, channel.malformed)
        while got < most and self.count + channel.lost < until and self.open:
            evt = self.take(_LOOK_SECONDS if until < float("inf") else timeout)
            if evt is not None:
                got += 1
                yield evt
            if (now := (self.count, channel.lost, channel.malformed)) != seen:
                seen, progress = now, time.monotonic()
            elif time.monotonic() - progress >= timeout:
                return

    def answer(self) -> Fields:
        channel = self.sub.channel()
        return {
            "received": self.count,
            "lost": channel.lost,
            "malformed": channel.malformed,
            "open": self.open,
        }


class Tally:
    """What the events of a burst were, without keeping them."""

    def __init__(self) -> None:
        self.first = self.last = 0
        self.ordered = True
        self.seen: dict[tuple[str, str, str], int] = {}

    def add(self, evt: zbus.Event) -> None:
        stream = evt.origin, evt.system, evt.kind
        self.ordered &= evt.seq > self.seen.get(stream, 0)
        self.seen[stream] = evt.seq
        self.last = evt.data["n"] if isinstance(evt.data, dict) else 0
        self.first = self.first or self.last

    def answer(self) -> Fields:
        return {"first": self.first, "last": self.last, "ordered": self.ordered}


class Driver:
    """The bus and the subscriptions of this process."""

    def __init__(self) -> None:
        self.bus: zbus.Bus | None = None
        self.options: Fields = {}
        self.name: str | None = None
        self.subscriptions: dict[str, Received] = {}

    def hello(self, _: Fields) -> Fields:
        return {
            "language": "python",
            "library": f"pyzmq {zmq.__version__} libzmq {zmq.zmq_version()}",
            "pid": os.getpid(),
        }

    def open(self, fields: Fields) -> Fields:
        self.name = fields.get("bus")
        names = ("capacity", "linger", "send_timeout", "max_event_bytes")
        self.options = {name: fields[name] for name in names if name in fields}
        self.bus = self._new()
        return {}

    def _new(self) -> zbus.Bus:
        return zbus.Bus(self.name, **self.options)

    @property
    def _open(self) -> zbus.Bus:
        if self.bus is None:
            raise zbus.Canceled("no bus is open: open one first")
        return self.bus

    def subscribe(self, fields: Fields) -> Fields:
        self.subscriptions[fields["name"]] = Received(self._subscribe(fields))
        return {}

    def _subscribe(self, fields: Fields) -> zbus.Subscription:
        return self._open.subscribe(
            name_of(fields, "system"),
            name_of(fields, "kind"),
            overflow=fields.get("overflow", "drop"),
            capacity=fields.get("capacity"),
        )

    def receive(self, fields: Fields) -> Fields:
        ours = self.subscriptions[fields["name"]]
        limits = fields.get("count", float("inf")), fields.get("until", float("inf")), fields["timeout"]
        if not fields.get("tally"):
            events = [told(evt) for evt in ours.each(*limits)]
            return {"events": events, **ours.answer()}
        tally = Tally()
        for evt in ours.each(*limits):
            tally.add(evt)
        return {**tally.answer(), **ours.answer()}

    def slow(self, fields: Fields) -> Fields:
        ours = self.subscriptions[fields["name"]]
        tally = Tally()
        for evt in ours.each(float("inf"), fields["until"], fields["timeout"]):
            tally.add(evt)
            time.sleep(fields["pause"])
        return {**tally.answer(), **ours.answer()}

    def busy(self, fields: Fields) -> Fields:
        time.sleep(fields["seconds"])
        return {}

    def send(self, fields: Fields) -> Fields:
        system, kind, path = (name_of(fields, field) for field in ("system", "kind", "path"))
        self._open.send(system, kind, path, data_of(fields))
        return {}

    def burst(self, fields: Fields) -> Fields:
        bus, topic, path = self._open, (fields["system"], fields["kind"]), fields.get("path", _PATH)
        count, batch, interval = fields["count"], fields.get("batch", 0), fields.get("interval", 0)
        pad = {"pad": "x" * size} if (size := fields.get("bytes", 0)) else {}
        began = time.monotonic()
        for n in range(1, count + 1, batch or 1):
            if batch:
                bus.send_many(*topic, [(path, {"n": i, **pad}) for i in range(n, min(n + batch, count + 1))])
            else:
                bus.send(*topic, path, {"n": n, **pad})
            if interval:
                time.sleep(interval)
        return {"sent": count, "seconds": time.monotonic() - began}

    def stream(self, fields: Fields) -> Fields:
        bus, until, interval = self._open, fields["until"], fields["interval"]
        before = 0
        for n in itertools.count(1):
            now = _micros()
            bus.send(
                fields["system"],
                fields["kind"],
                fields.get("path", _PATH),
                {"n": n, "at": now, "prev": before},
            )
            before = now
            if os.path.exists(until):
                return {"sent": n}
            time.sleep(interval)
        raise AssertionError

    def joins(self, fields: Fields) -> Fields:
        seconds = []
        for n in range(1, fields["count"] + 1):
            began = time.monotonic()
            with self._new() as bus:
                bus.send(fields["system"], fields["kind"], fields.get("path", _PATH), {"n": n})
                seconds.append(time.monotonic() - began)
        return {"seconds": seconds}

    def churn(self, fields: Fields) -> Fields:
        rounds = []
        for _ in range(fields["count"]):
            with self._subscribe(fields) as sub:
                joined = _micros()
                evt = Received(sub).take(fields["timeout"])
                if evt is None:
                    raise zbus.Timeout(f"no event within {fields['timeout']:g} s")
                rounds.append(
                    {
                        "joined": joined,
                        "n": evt.data["n"],
                        "prev": evt.data["prev"],
                        "lost": sub.channel().lost,
                    }
                )
        return {"rounds": rounds}

    def close(self, fields: Fields) -> Fields:
        if "name" in fields:
            self.subscriptions[fields["name"]].sub.close()
        elif self.bus is not None:
            self.bus.close()
            self.bus = None
        return {}

    def speed(self, fields: Fields) -> Fields:
        if fields["role"] == "send":
            return self.burst(fields)
        events = iter(self.subscriptions[fields["name"]].sub)
        next(events)
        began = time.perf_counter()
        for _ in itertools.islice(events, fields["count"] - 1):
            pass
        return {"seconds": time.perf_counter() - began}

    def echo(self, fields: Fields) -> Fields:
        bus, channel = self._open, self.subscriptions[fields["name"]].sub.channel()
        for evt in itertools.islice(channel, fields["count"]):
            bus.send(fields["system"], fields["kind"], evt.path, evt.data)
        return {}

    def ping(self, fields: Fields) -> Fields:
        bus, channel = self._open, self.subscriptions[fields["name"]].sub.channel()
        micros = []
        for n in range(fields["count"]):
            began = time.perf_counter_ns()
            bus.send(fields["system"], fields["kind"], _PATH, {"n": n})
            next(iter(channel))
            micros.append((time.perf_counter_ns() - began) / 1000)
        return {"micros": micros}


_VERBS = [name for name in vars(Driver) if not name.startswith("_")]


def answer(driver: Driver, request: Fields) -> Fields:
    """Return the answer to one request."""
    verb = request.pop("verb")
    action: Callable[[Fields], Fields] | None = RULES.get(verb)
    if action is None and verb in _VERBS:
        action = getattr(driver, verb)
    if action is None:
        return {"unsupported": f"there is no verb {verb}"}
    try:
        return {"ok": True, **action(request)}
    except zbus.Error as error:
        return {"error": {"kind": error.kind, "message": error.message, "retryable": error.retryable}}


def main(driver: Driver) -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin.buffer:
        said = json.dumps(answer(driver, orjson.loads(line)))
        sys.stdout.write(said + "\n")
        sys.stdout.flush()
    driver.close({})


if __name__ == "__main__":
    main(Driver())
