"""Checking a recording: complete, lossy or damaged, and what is missing where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from .reader import Reading

__all__ = ["Loss", "Report", "verify"]


class Loss(NamedTuple):
    """What is missing of one publisher and topic.

    Attributes:
        origin, system, kind: the stream.
        events: how many are missing.
        first, last: the numbers of the first and the last of them.
        gaps: in how many pieces they were lost.
        after: when the last event before the first of them was sent, in seconds since the epoch.
    """

    origin: str
    system: str
    kind: str
    events: int
    first: int
    last: int
    gaps: int
    after: float | None


@dataclass
class Report:
    """What a recording holds.

    Attributes:
        verdict: `complete`, `lossy` or `damaged`.
        events: how many can be read.
        topics: of them.
        begin, end: when the first and the last of them were sent, in seconds since the epoch.
        losses: what is missing, most first.
        malformed: how many events were left out because their data was not JSON.
        unwritten: how many events arrived and could not be written, because the disk was full, for example.
            They are among the losses.
        damage: what is wrong with the file; empty if nothing is.
        readable, size: up to which byte it can be read, and how many it has.
        recording: what the recorder says of itself.
    """

    verdict: str = "complete"
    events: int = 0
    topics: int = 0
    begin: float | None = None
    end: float | None = None
    losses: list[Loss] = field(default_factory=list)
    malformed: int = 0
    unwritten: int = 0
    damage: str = ""
    readable: int = 0
    size: int = 0
    recording: dict[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """How many events are missing."""
        return sum(loss.events for loss in self.losses)


_Key = tuple[str, str, str]


class _Streams:
    """The numbers of all streams, each of which must go on without a hole that no gap explains."""

    def __init__(self) -> None:
        self._next: dict[_Key, int] = {}
        self._lost: dict[_Key, Loss] = {}
        self._sent: int | None = None

    def event(self, body: dict[str, Any], sent: int) -> None:
        key, seq = _key(body), body["seq"]
        if key[0]:
            due = self._next.get(key, seq)
            if seq > due:
                self._lose(key, due, seq - 1)
            self._next[key] = seq + 1
        self._sent = sent

    def gap(self, body: dict[str, Any]) -> None:
        key, first, last = _key(body), body["first"], body["last"]
        self._lose(key, first, last)
        self._next[key] = max(self._next.get(key, 0), last + 1)

    def unwritten(self, metadata: dict[str, str]) -> None:
        key, first, last = _key(metadata), int(metadata["first"]), int(metadata["last"])
        # A publisher that does not number its events leaves nothing but how many there were.
        self._lose(key, first, last, last - first + 1 if key[0] else int(metadata["events"]))

    def _lose(self, key: _Key, first: int, last: int, events: int | None = None) -> None:
        after = None if self._sent is None else self._sent / 1e9
        was = self._lost.get(key) or Loss(*key, 0, first, last, 0, after)
        events = last - first + 1 if events is None else events
        self._lost[key] = was._replace(events=was.events + events, last=last, gaps=was.gaps + 1)

    def losses(self) -> list[Loss]:
        return sorted(self._lost.values(), key=lambda loss: -loss.events)


def _key(body: dict[str, Any]) -> _Key:
    return body["origin"], body["system"], body["kind"]


def verify(path: str) -> Report:
    """Read a whole recording and say what it holds and what is missing.

    A hole in the numbers of a publisher is a loss, whether the recorder knew of it or not. What came before
    the first event of a publisher in the file is none.

    Raises:
        OSError: it cannot be read.
    """
    report, streams = Report(), _Streams()
    topics: set[tuple[str, str]] = set()
    with Reading(path) as reading:
        for messages in reading.messages():
            try:
                for sent, text, lost in messages:
                    body = orjson.loads(text)
                    if lost:
                        streams.gap(body)
                        continue
                    streams.event(body, sent)
                    topics.add((body["system"], body["kind"]))
                    report.events += 1
                    report.begin = sent / 1e9 if report.begin is None else min(report.begin, sent / 1e9)
                    report.end = sent / 1e9 if report.end is None else max(report.end, sent / 1e9)
            except (ValueError, LookupError, TypeError) as error:
                reading.damage = f"a message is not what zbus writes: {error}"
                break
        try:
            for stream in reading.unwritten:
                streams.unwritten(stream)
            report.malformed = int(reading.end.get("malformed", "0"))
            report.unwritten = int(reading.end.get("unwritten", "0"))
        except (ValueError, LookupError) as error:
            reading.damage = reading.damage or f"its end is not what zbus writes: {error}"
        report.damage = reading.damage
        report.readable, report.size = reading.read, reading.size
        report.recording = reading.recording
    if not report.damage and not reading.recording:
        report.damage = "it is not a recording of zbus"
    report.topics, report.losses = len(topics), streams.losses()
    if report.damage:
        report.verdict = "damaged"
    elif report.losses or report.malformed or report.unwritten:
        report.verdict = "lossy"
    return report
