"""Sending the events of a recording again: in the same order, at the same pace or another one.

Events of one topic that are due go as one batch, at a third of the cost of `send`. That makes up for reading
them. Data is decoded and encoded again. An `orjson.Fragment` would avoid that, but `send` has to verify each,
in Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
from pybase64 import b64decode

from ..bus import Bus
from ..errors import Invalid
from ..protocol.patterns import Matcher
from ..roster.members import mark_origins
from ..runtime.threads import sleep
from .reader import Message, Reading

__all__ = ["REPLAYED", "Pace", "Replay", "mark_replayed"]

REPLAYED = "ec40ed"
"""How the origins of replayed events begin; it looks like "echoed"."""

_BATCH = 100
_BATCH_BYTES = 65_536
# How often to look at keys and signals, and to show progress.
_LOOK_SECONDS = 0.05


class Pace:
    """When each event is due: as far apart as they were sent, divided by `speed`, without the pauses.

    Attributes:
        paused: whether nothing is due.
    """

    def __init__(self, speed: float | None) -> None:
        """`None` is as fast as possible."""
        self._speed = speed
        self._begun = 0.0
        self._first: int | None = None
        self._latest = 0
        self._ready_until = 0
        self.paused = False
        self._paused_at = 0.0

    def toggle(self) -> None:
        """Pause, or go on. A signal handler may call this."""
        now = time.monotonic()
        if self.paused:
            self._begun += now - self._paused_at
        else:
            self._paused_at = now
        self._ready_until = 0
        self.paused = not self.paused

    def left(self, sent: int) -> float:
        """Return for how many seconds an event that was sent at `sent`, in nanoseconds, is not due yet."""
        if self.paused:
            return _LOOK_SECONDS
        if self._speed is None or sent <= self._ready_until:
            return 0.0
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = sent, now
        elapsed = int((now - self._begun) * self._speed * 1e9)
        self._ready_until = self._first + elapsed
        return max(0.0, (sent - self._ready_until) / 1e9 / self._speed)

    def restart(self) -> None:
        """Begin again with the next event."""
        self._first = None
        self._ready_until = 0


class Replay:
    """Sends recordings on a bus. One thread uses it.

    Attributes:
        events: how many were sent.
        refused: how many a bus does not take: of a system of its own, or too large.
        lost: how many are missing in the recording; they are not sent.
    """

    def __init__(
        self, bus: Bus, pace: Pace, system: str, kind: str | None, look: Callable[[Reading], object]
    ) -> None:
        """Send what the patterns select; call `look` often.

        Raises:
            Invalid: a malformed pattern.
        """
        self.events = self.refused = self.lost = 0
        self._bus = bus
        self._pace = pace
        self._look = look
        self._system = Matcher(system, "system pattern")
        self._kind = Matcher(kind, "kind pattern") if kind not in (None, "", "*") else None
        self._wanted: dict[tuple[str, str], bool] = {}
        self._topic = ("", "")
        self._rows: list[tuple[str, Any]] = []
        self._bytes = 0
        self._looked = 0.0

    def run(self, reading: Reading) -> None:
        """Send a recording, up to where it can be read.

        Raises:
            Timeout, Canceled, Unavailable: as for `Bus.send`.
        """
        self._pace.restart()
        for messages in reading.messages():
            if reading.set_back:  # what follows would be late, all of it, and go at once
                self._hand_over()
                self._pace.restart()
            try:
                self._send(messages, reading)
            except (ValueError, LookupError, TypeError) as error:
                reading.damage = f"a message is not what zbus writes: {error}"
                break
        self._hand_over()

    def _send(self, messages: list[Message], reading: Reading) -> None:
        loads, left = orjson.loads, self._pace.left
        for sent, text, lost in messages:
            body = loads(text)
            topic = body["system"], body["kind"]
            if topic != self._topic or len(self._rows) >= _BATCH or self._bytes >= _BATCH_BYTES:
                self._hand_over()
                if not self._wants(topic):
                    continue
                self._topic = topic
                self._sometimes(reading)
            if lost:
                self.lost += body["events"]
                continue
            if left(sent):
                self._wait(sent, reading)
            if "base64" in body:
                self._hand_over()
                self._one(*topic, body["path"], b64decode(body["base64"]))
            else:
                self._rows.append((body["path"], body["data"]))
                self._bytes += len(text)

    def _wants(self, topic: tuple[str, str]) -> bool:
        wanted = self._wanted.get(topic)
        if wanted is None:
            system, kind = topic
            wanted = self._system.matches(system) and (self._kind is None or self._kind.matches(kind))
            self._wanted[topic] = wanted
        return wanted

    def _wait(self, sent: int, reading: Reading) -> None:
        """Wait until an event is due; what is due before it goes first."""
        self._hand_over()
        while (seconds := self._pace.left(sent)) > 0:
            sleep(min(seconds, _LOOK_SECONDS))
            self._sometimes(reading)

    def _sometimes(self, reading: Reading) -> None:
        if (now := time.monotonic()) >= self._looked + _LOOK_SECONDS:
            self._looked = now
            self._look(reading)

    def _hand_over(self) -> None:
        """Send the rows."""
        rows, self._rows, self._bytes = self._rows, [], 0
        if len(rows) > 1:
            try:
                self.events += self._bus.send_many(*self._topic, rows, timeout=None)
                return
            except Invalid:  # one of them, or all together
                pass
        for path, data in rows:
            self._one(*self._topic, path, data)

    def _one(self, system: str, kind: str, path: str, data: Any) -> None:
        try:
            self._bus.send(system, kind, path, data, timeout=None)
            self.events += 1
        except Invalid:
            self.refused += 1


def mark_replayed() -> None:
    """Have all buses that this process opens from now on number their events under origins that tell it."""
    mark_origins(REPLAYED)
