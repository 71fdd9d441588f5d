"""Fault 21: what is lost at the very end is told; what is held back is handed over.

A publisher sends some events, as many as it is told to, and ends in one way or another.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import zbus
from tests.live.process import Worker
from tests.live.workers import tell, told

from .harness import Row, Stage, resident_mib, until

__all__ = ["speaker", "speaker_on_topics", "tail_reader", "told_to_the_end"]

_LIMIT = 60.0
_SMALL = 5  # the capacity of a reader
_MOST_HELD = 128  # rows of a batch
_TOPICS, _FEW = 60_000, 1_000
_LONG_LIMIT = 240.0


def speaker(count: str, capacity: str, coalesce: str = "0") -> None:
    """Send a first event and, once told to, the others; told how, end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    bus = zbus.Bus(capacity=int(capacity), coalesce=float(coalesce), linger=_LIMIT)
    bus.send("tail", "k", "/n", 1)
    tell(ready=True)
    told()
    for number in range(2, int(count) + 1):
        bus.send("tail", "k", "/n", number)
    tell(sent=int(count))
    match told():
        case "close":
            bus.close()
        case "os._exit":
            os._exit(0)
        case "wait":  # for a signal. One that comes just before a blocking read is handled only after it.
            while not select.select([sys.stdin], [], [], 0.1)[0]:
                pass


class Account:
    """What a channel received, and was told lost."""

    def __init__(self, sub: zbus.Subscription, *, each_alone: bool = False) -> None:
        """Begin. `each_alone` says that each event is the first of its topic."""
        self._channel = sub.channel()
        self._each_alone = each_alone
        self.received = self.last = self.wrong = 0

    def read(self) -> int:
        """Read what is there; return how many events are accounted for."""
        with suppress(zbus.Timeout):
            while True:
                evt, _ = self._channel.receive(0.05)
                assert evt is not None
                self.wrong += evt.data <= self.last or evt.seq != (1 if self._each_alone else evt.data)
                self.last = evt.data
                self.received += 1
        return self.received + self.lost

    def read_until(self, count: int) -> None:
        """Read until so many events are accounted for."""
        until(lambda: self.read() >= count, _LIMIT, "every event arrives or is told lost")

    @property
    def lost(self) -> int:
        return self._channel.lost


def tail_reader(count: str) -> None:
    """Read once told to, until so many events are accounted for."""
    with zbus.Bus() as bus:
        account = Account(bus.subscribe("tail", capacity=_SMALL))
        tell(ready=True)
        told()
        account.read_until(int(count))
        tell(received=account.received, lost=account.lost, wrong=account.wrong)


def told_to_the_end(stage: Stage) -> Iterator[Row]:
    count = stage.size(20_000, 2_000)
    yield from _slow(stage.apart(), count)
    yield _stopped(stage.apart(), count)
    yield _many_topics(stage.apart())
    yield from _coalesced(stage, count)


def _slow(stage: Stage, count: int) -> Iterator[Row]:
    """Let the queue of a reader be full when the publisher comes to rest, or closes."""
    for end in ("wait", "close"):
        row = stage.row(f"a reader with capacity 5 when its publisher {_ENDS[end]}")
        account = Account(stage.bus().subscribe("tail", capacity=_SMALL))
        worker = stage.spawn("speaker", count, 65_536).ready()
        _speak(worker)
        worker.tell(end)
        if end == "close":
            worker.end()
        account.read_until(count)
        row.done = f"{count:,} events, none read until then"
        _judge(row, account.received, account.lost, account.wrong, count)
        yield row


def _stopped(stage: Stage, count: int) -> Row:
    row = stage.row("a stopped reader whose publisher has no room left for it, and comes to rest")
    reader = stage.spawn("tail_reader", count).ready()
    worker = stage.spawn("speaker", count, 50).ready()
    reader.signal(signal.SIGSTOP)
    _speak(worker)
    worker.tell("wait")
    reader.signal(signal.SIGCONT)
    reader.tell("read")
    report = reader.hear()
    row.done = f"{count:,} events, the publisher's capacity 50"
    _judge(row, report["received"], report["lost"], report["wrong"], count)
    return row


def _many_topics(stage: Stage) -> Row:
    """Let a reader lose the only event of nearly each of 60,000 topics."""
    row = stage.row("a publisher sends one event on each of 60,000 topics, has no room for some, and closes")
    bus = stage.bus()
    account = Account(bus.subscribe("tail.*", capacity=_FEW), each_alone=True)
    memory = resident_mib(os.getpid())
    worker = stage.spawn("speaker_on_topics", _TOPICS, _FEW).ready()
    worker.tell("go on")
    closed = worker.hear()["closed"]
    told_after = until(lambda: account.read() >= _TOPICS, _LONG_LIMIT, "every event arrives or is told lost")
    row.done = f"read when it has closed; both capacities are {_FEW:,}"
    _judge(row, account.received, account.lost, account.wrong, _TOPICS)
    row.show(f"its close took {closed:.2g} s, then all was told within {told_after:.2g} s")
    row.at_most("reader's memory", resident_mib(os.getpid()) - memory, 192, "MiB more", speed=False)
    row.end(worker)
    return row


def speaker_on_topics(count: str, capacity: str) -> None:
    """Send one event on each of many topics, and close."""
    bus = zbus.Bus(capacity=int(capacity), linger=_LONG_LIMIT)
    tell(ready=True)
    told()
    for number in range(1, int(count) + 1):
        bus.send(f"tail.{number}", "k", "/n", number)
    begun = time.monotonic()
    bus.close()
    tell(closed=time.monotonic() - begun)


def _judge(row: Row, received: int, lost: int, wrong: int, count: int) -> None:
    row.lost = f"{lost:,} of {count:,}, each counted"
    row.equal("received + lost", received + lost, count)
    row.equal("out of order", wrong, 0)
    row.claim(f"lost {lost}", lost > 0)


def _coalesced(stage: Stage, count: int) -> Iterator[Row]:
    """End a publisher that holds events back."""
    for end in ("SIGKILL", "SIGTERM", "os._exit"):
        row = stage.row(f"{end} to a publisher that coalesces")
        account = Account(stage.bus().subscribe("tail"))
        worker = stage.spawn("speaker", count, 65_536, 60).ready()
        _speak(worker)
        arrived = count - _MOST_HELD if end == "SIGKILL" else count
        if end == "SIGKILL":  # which would also take what libzmq has not written yet
            account.read_until(arrived)
        _end(worker, end)
        account.read_until(arrived)
        row.done = f"{count:,} events of one topic, held for up to 60 s"
        row.lost = f"{count - account.received:,} of {count:,}"
        row.claim(f"lost more than it held: {row.lost}", account.received >= arrived)
        row.equal("told lost, out of order", (account.lost, account.wrong), (0, 0))
        yield row


def _speak(worker: Worker) -> None:
    worker.tell("go on")
    assert "sent" in worker.hear()


def _end(worker: Worker, how: str) -> None:
    worker.tell("os._exit" if how == "os._exit" else "wait")
    if how != "os._exit":
        worker.signal(getattr(signal, how))
    worker.process.wait(_LIMIT)
    worker.end()


_ENDS = {"wait": "comes to rest", "close": "closes"}
