"""The ledger of a link: who sent what when, what the other machine has got, and why it has not got the rest.

Whatever a killed link loses, it loses the end of what was sent while it ran, and what was sent until the next
one had joined:

    joined          killed              joined
    ─┴───────────────┴─ ─ ─ ─ ─ ─ ─ ─ ─ ─┴─────►
     got got got held   between, between  got got

A loss anywhere else has no excuse. All times are of the monotonic clock.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence, Set
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import NamedTuple

import zbus

__all__ = ["LIMIT", "Life", "Losses", "Reader", "Sender", "Sent", "explain"]

LIMIT = 120.0
_PAUSE_SECONDS = 0.05
_FEW, _MANY = 20, 500
_OFTEN = 0.95


class Sent(NamedTuple):
    """When the `send` of an event began, and when it returned."""

    begun: float
    returned: float


class Life(NamedTuple):
    """From when the link out had joined the bus until it was killed, which may be never: `inf`."""

    joined: float
    killed: float


class Losses(NamedTuple):
    """Why events are missing, by their numbers.

    Attributes:
        between: sent while no link ran.
        held: the last that killed links had been given.
        most: how many of those one link held at most.
        longest: how many seconds before a kill the oldest of them was sent, at most.
        unexplained: lost without an excuse.
    """

    between: Set[int]
    held: Set[int]
    most: int
    longest: float
    unexplained: Set[int]


def explain(sent: Sequence[Sent], lost: Set[int], lives: Sequence[Life]) -> Losses:
    """Return why events are lost. The first one sent has the number 1."""
    held: set[int] = set()
    unexplained: set[int] = set()
    within: set[int] = set()
    most, longest = 0, 0.0
    for life in lives:
        first = bisect_left(sent, life.joined, key=lambda one: one.begun) + 1
        last = bisect_right(sent, life.killed, key=lambda one: one.returned)
        within.update(range(first, last + 1))
        killed = life.killed < inf
        end = [*takewhile(lost.__contains__, range(last, first - 1, -1))] if killed else []
        held.update(end)
        unexplained.update((lost & {*range(first, last + 1)}).difference(end))
        if end:
            most = max(most, len(end))
            longest = max(longest, life.killed - sent[end[-1] - 1].returned)
    return Losses(lost - within, held, most, longest, unexplained)


class Sender(threading.Thread):
    """Sends numbers, in order, in bursts, until it is told to stop."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__()
        self._bus = zbus.Bus(dir=directory)
        self._random = rng
        self.stopping = threading.Event()
        self.sent: list[Sent] = []

    def run(self) -> None:
        """Send until told to stop."""
        with self._bus as bus:
            while not self.stopping.wait(_PAUSE_SECONDS):
                many = self._random.random() > _OFTEN
                for _ in range(_MANY if many else self._random.randint(1, _FEW)):
                    begun = time.monotonic()
                    bus.send("orders", "x", "/x", len(self.sent) + 1, timeout=LIMIT)
                    self.sent.append(Sent(begun, time.monotonic()))


class Reader(threading.Thread):
    """Keeps what the other machine has got, and what it was told is lost."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._bus = zbus.Bus(dir=directory)
        sub = self._bus.subscribe("orders", overflow="block", on_gap=self._note_gap)
        self._channel = sub.channel()
        self.stopping = threading.Event()
        self.got: set[int] = set()
        self.told: set[int] = set()
        self.repeated = self.backwards = self.last = self.wrong = self.told_twice = 0

    def run(self) -> None:
        """Receive until told to stop."""
        with self._bus:
            while not self.stopping.is_set():
                try:
                    evt, _ = self._channel.receive(0.1)
                except zbus.Timeout:
                    continue
                self._note(evt)

    def _note(self, evt: zbus.Event) -> None:
        self.wrong += evt.data != evt.seq
        self.repeated += evt.seq in self.got
        self.backwards += evt.seq not in self.got and evt.seq < self.last
        self.got.add(evt.seq)
        self.last = max(self.last, evt.seq)

    def _note_gap(self, gap: zbus.Gap) -> None:
        numbers = range(gap.first, gap.last + 1)
        self.told_twice += len(self.told.intersection(numbers))
        self.told.update(numbers)

    @property
    def accounted(self) -> int:
        """How many events are in the ledger."""
        return len(self.got) + len(self.told)
