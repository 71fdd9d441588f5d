"""Fault 22: a process is stopped and killed while it writes its live numbers into its member file.

In the product it writes for some 20 µs once a second, so a signal would hardly ever come in that time. Here
it publishes as fast as it can, or stops itself when it has written so many bytes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace

import zbus
from tests.live.process import Worker, thread_states
from tests.live.workers import tell
from zbus.roster import numbers

from .harness import Row, Stage, files, until

__all__ = ["publishing", "teller"]

_LIMIT = 60.0
_TOPICS, _CHANNELS = 120, 3
_STOPPED_ROUND = 4
# A slot begins with 8 bytes for the length of the text, which is about 51,000 here.
_STOPS = (0, 1, 8, 9, 4096, 40_000)
_LATEST = 40  # where the number of the latest publication is


def teller(stop_after: str = "") -> None:
    """Send an event to each topic, receive it in each channel, publish; all that again and again.

    In round 4, stop after so many bytes.
    """
    name = "n" * 400
    with zbus.Bus() as bus:
        # Housekeeping would count amid a round, and the numbers of one table need not be of one moment (R55).
        live = bus._node.numbers
        publish, live.publish = live.publish, lambda: None  # type: ignore[method-assign]
        subs = [bus.subscribe("numbers.*") for _ in range(_CHANNELS)]
        for round_ in count(1):
            for topic in range(_TOPICS):
                bus.send(f"numbers.{topic}", name, "/1")
            for sub in subs:
                for _ in range(_TOPICS):
                    sub.channel().receive(timeout=_LIMIT)
            if stop_after and round_ == _STOPPED_ROUND:
                _stop_after(int(stop_after))
            live._due = 0.0
            publish()
            if round_ == _STOPPED_ROUND - 1:  # so both slots are in use
                tell(ready=True)


def _stop_after(left: int) -> None:
    """Let this process stop when it has written so many more bytes of its numbers, -1 for the whole slot."""

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal left
        done = 0 if left < 0 and offset == _LATEST else left
        if 0 <= done < len(data):
            os.pwrite(fd, data[:done], offset)
            os.kill(os.getpid(), signal.SIGSTOP)
        left -= len(data)
        return os.pwrite(fd, data, offset)

    numbers.os = SimpleNamespace(**{**vars(os), "pwrite": pwrite})  # type: ignore[attr-defined]


def publishing(stage: Stage) -> Iterator[Row]:
    yield _at_random(stage.apart())
    yield _amid(stage.apart())


def _at_random(stage: Stage) -> Row:
    row = stage.row("SIGKILL a process that publishes its live numbers without a pause")
    kills, reads = stage.size(50, 5), 0
    for _ in range(kills):
        worker = stage.spawn("teller").ready()
        for _ in range(stage.random.randrange(1, 200)):
            _check(row, stage, worker)
            reads += 1
        worker.kill()
        _check(row, stage, worker)
    row.done = f"{kills} kills at random moments; {reads:,} reads before them, and one after each"
    return _judged(row, stage)


def _amid(stage: Stage) -> Row:
    row = stage.row("SIGSTOP and then SIGKILL a process amid the writing of its live numbers")
    for written in (*_STOPS, -1):
        worker = stage.spawn("teller", written).ready()
        until(lambda: _stopped(worker), _LIMIT, "the process stops amid a write")  # noqa: B023  # called here
        row.equal(f"round after {written} bytes", _check(row, stage, worker), _STOPPED_ROUND - 1)
        worker.kill()
        row.equal(f"round after {written} bytes", _check(row, stage, worker), _STOPPED_ROUND - 1)
    bytes_ = ", ".join(f"{written:,}" for written in _STOPS)
    row.done = f"after {bytes_} bytes of a slot, and after all of them"
    return _judged(row, stage)


def _stopped(worker: Worker) -> bool:
    return all(state in "Tt" for _, _, state in thread_states(worker.pid))


def _judged(row: Row, stage: Stage) -> Row:
    row.lost = "nothing: each reader found a whole table, the latest"
    stage.join()
    row.equal("files of the dead", files(stage.path), [])
    return row


def _check(row: Row, stage: Stage, worker: Worker) -> int:
    """Claim that others see a table in which everything is of the same round; return which."""
    [found] = [peer.numbers for peer in stage.peers() if peer.pid == worker.pid and peer.role == "member"]
    row.claim("the numbers cannot be read", found is not None)
    if found is None:
        return 0
    rounds = {topic.events for topic in found.by_topic}
    [each] = rounds if len(rounds) == 1 else [0]
    row.equal("rounds and number of the topics", (len(rounds), len(found.by_topic)), (1, _TOPICS))
    row.equal("the sums", (found.events, found.received), (_TOPICS * each, _CHANNELS * _TOPICS * each))
    row.equal("received", [one.received for one in found.by_channel], _CHANNELS * [_TOPICS * each])
    return each
