"""A process of `zbus demo`: it publishes or subscribes until its stdin ends, and reports on stdout.

    python -m zbus.cli.demo_peer publisher|subscriber NUMBER DIR

Stdin ends when the demo closes it, and also when the demo dies. A report is one line of JSON, short enough
for an atomic write to a pipe, so all processes of a demo share one.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import orjson

import zbus

from ..runtime.threads import Event, sleep, start
from .event_lines import human_line

__all__ = ["BUS", "describe", "main"]

BUS = "demo"

_REPORT_SECONDS = 0.5
# A process that has not ended by then is stuck, and exits: a demo leaves nothing behind.
_STUCK_SECONDS = 5.0
_SAMPLE_CHARACTERS = 200
# A subscriber has received everything once its count has not changed for so long.
_QUIET_SECONDS = 0.2
_QUIET_TRIES = 15
# Short queues, so that the events that a subscriber shows were sent just now.
_CAPACITY = 1000
_BATCH = 100

_PATTERNS = (
    ("orders.**", None),
    ("metrics", "cpu.*"),
    ("orders.eu", "order.paid"),
    ("(orders|metrics).**", "(order|cpu).*"),
)


def describe(role: str, number: int) -> str:
    """Return a short description of what process `number` of a role does."""
    if role == "publisher":
        return ("sends orders one by one", f"sends metrics, {_BATCH} at a time")[number % 2]
    system, kind = _PATTERNS[number % len(_PATTERNS)]
    return f"subscribes to {system}, {kind or 'every kind'}"


def main(role: str, number: int, directory: str) -> None:
    """Run one process of the demo to its end."""
    sys.argv[0] = f"demo-{role}-{number + 1}"  # its name in `zbus ls`
    try:
        with zbus.Bus(BUS, dir=directory, capacity=_CAPACITY, linger=3.0) as bus:
            (_publish if role == "publisher" else _subscribe)(bus, number)
    except zbus.Error as error:
        sys.exit(f"zbus: {error}")


def _publish(bus: zbus.Bus, number: int) -> None:
    sends = (_send_orders, _send_metrics)[number % 2](bus)
    with _Reporter() as progress:
        for sent in sends:
            progress.events += sent
            if progress.ended:
                break


def _send_orders(bus: zbus.Bus) -> Iterator[int]:
    regions, kinds = ("eu", "us", "asia"), ("created", "paid")
    for number in count(1):
        system, kind = f"orders.{regions[number % 3]}", f"order.{kinds[number % 2]}"
        order = {"total": number % 900 / 10, "items": number % 7 + 1}
        bus.send(system, kind, f"/orders/{number}", order, timeout=None)
        yield 1


def _send_metrics(bus: zbus.Bus) -> Iterator[int]:
    kinds = ("cpu.load", "cpu.heat")
    for tick in count():
        hosts = ((f"/hosts/{host}", {"tick": tick, "value": (tick + host) % 100}) for host in range(_BATCH))
        yield bus.send_many("metrics", kinds[tick % 2], hosts, timeout=None)


def _subscribe(bus: zbus.Bus, number: int) -> None:
    system, kind = _PATTERNS[number % len(_PATTERNS)]
    # On a busy machine a publisher at full speed is faster than a subscriber, so it has to wait.
    subscription = bus.subscribe(system, kind, overflow="block")

    def stop() -> None:
        for _ in range(_QUIET_TRIES):
            seen = progress.events
            sleep(_QUIET_SECONDS)
            if progress.events == seen:
                break
        subscription.close()

    progress = _Reporter(stop, lambda: subscription.lost)
    with progress:
        for evt in subscription:
            progress.events += 1
            progress.latest = evt


class _Reporter:
    """Reports to the demo twice a second, and tells this process when to end.

    Attributes:
        events: how many were sent or received, counted by the process.
        latest: the latest event received, set by the process.
        ended: whether stdin has ended.
    """

    def __init__(self, stop: Callable[[], None] = lambda: None, lost: Callable[[], int] = lambda: 0) -> None:
        """Call `stop` when stdin ends, and `lost` to learn how many events were lost."""
        self.events = 0
        self.latest: zbus.Event | None = None
        self.ended = False
        self._stop = stop
        self._lost = lost
        self._done = Event()

    def __enter__(self) -> _Reporter:
        self._thread = start("zbus-report", self._run)
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
        self._report()

    def _run(self) -> None:
        self._report()
        while not self._done.is_set():
            if select.select([sys.stdin], [], [], _REPORT_SECONDS)[0]:
                break
            self._report()
        self.ended = True
        self._stop()
        if not self._done.wait(_STUCK_SECONDS):
            os._exit(1)

    def _report(self) -> None:
        sample = human_line(self.latest)[:_SAMPLE_CHARACTERS] if self.latest else ""
        report = {"pid": os.getpid(), "events": self.events, "lost": self._lost(), "sample": sample}
        with suppress(BrokenPipeError):  # the demo has died, so stdin ends too
            os.write(sys.stdout.fileno(), orjson.dumps(report) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
