"""How fast, how regularly and how late the events of each topic arrive, over a sliding window.

The window is divided into parts, each as long as the time between two reports. A part keeps sums, and a
histogram of latencies, so what is kept does not grow with the rate.
"""

from __future__ import annotations

from collections import Counter, deque
from math import ceil, exp, inf, log, sqrt
from typing import NamedTuple

from .tap import Arrived, Head

__all__ = ["Arrivals", "Measured"]

# A bin of the histogram is 2 % wide, so a percentile is exact to 1 %.
_BINS = 50
_LEAST_LATENCY = 1e-6
_TOPICS_KEPT = 10_000

Topic = tuple[str, str]


class Measured(NamedTuple):
    """What arrived of one topic within the window. Times are seconds; what is unknown is `None`.

    Attributes:
        system, kind: the topic.
        seconds: the length of the window so far.
        received, lost: events. What was lost is known from the numbers that are missing.
        rate: events a second, received and lost.
        bytes: of the frames that were received, a second.
        size, size_min, size_max: bytes of a frame: the mean and the extremes. A batch is one frame.
        period, period_min, period_max, period_stdev: between two frames, by the time at which they were sent.
        latency_p50, latency_p99, latency_max: from the send to this reader.
    """

    system: str
    kind: str
    seconds: float
    received: int
    lost: int
    rate: float
    bytes: float
    size: float | None
    size_min: int | None
    size_max: int | None
    period: float | None
    period_min: float | None
    period_max: float | None
    period_stdev: float | None
    latency_p50: float | None
    latency_p99: float | None
    latency_max: float | None


class _Spread:
    """Count, extremes, mean and deviation of some numbers."""

    __slots__ = ("count", "greatest", "least", "squares", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = 0.0
        self.least, self.greatest = inf, -inf

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.squares += value * value
        if value < self.least:
            self.least = value
        if value > self.greatest:
            self.greatest = value

    def merge(self, other: _Spread) -> None:
        self.count += other.count
        self.sum += other.sum
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    @property
    def extremes(self) -> tuple[float, float] | tuple[None, None]:
        return (self.least, self.greatest) if self.count else (None, None)

    @property
    def deviation(self) -> float | None:
        if self.count < 2:
            return None
        return sqrt(max(0.0, self.squares / self.count - (self.sum / self.count) ** 2))


class _Part:
    """What arrived of one topic in one part of the window."""

    __slots__ = ("events", "latencies", "lost", "periods", "sizes", "slowest")

    def __init__(self) -> None:
        self.events = self.lost = 0
        self.sizes, self.periods = _Spread(), _Spread()
        self.latencies: Counter[int] = Counter()
        self.slowest = -inf

    def merge(self, other: _Part) -> None:
        self.events += other.events
        self.lost += other.lost
        self.sizes.merge(other.sizes)
        self.periods.merge(other.periods)
        self.latencies.update(other.latencies)
        self.slowest = max(self.slowest, other.slowest)


class _Window:
    """The parts of one topic, the newest last, and when the latest frame was sent."""

    __slots__ = ("parts", "sent")

    def __init__(self, parts: int) -> None:
        self.parts: deque[_Part] = deque([_Part()], maxlen=parts)
        self.sent: float | None = None

    def whole(self) -> _Part:
        found = _Part()
        for part in self.parts:
            found.merge(part)
        return found


class Arrivals:
    """What arrives, by topic."""

    def __init__(self, window: float, interval: float, now: float) -> None:
        """Begin at `now`, of the monotonic clock.

        Args:
            window: how many seconds to look back.
            interval: how many seconds pass between two calls of `turn`.
        """
        self._parts = max(1, ceil(window / interval - 1e-9))
        self._windows: dict[Topic, _Window] = {}
        self._begun: deque[float] = deque([now], maxlen=self._parts)

    def add(self, arrived: Arrived) -> None:
        """Count what has arrived."""
        for gap in arrived.gaps:
            self._window(gap.system, gap.kind).parts[-1].lost += gap.events
        for head in arrived.heads:
            _add(self._window(head.system, head.kind), head, arrived.time)

    def _window(self, system: str, kind: str) -> _Window:
        window = self._windows.get((system, kind))
        if window is None:
            if len(self._windows) >= _TOPICS_KEPT:
                self._forget()
            window = self._windows[system, kind] = _Window(self._parts)
        return window

    def _forget(self) -> None:
        """Forget topics of which nothing arrived; or all, if something did of each."""
        kept = {topic: window for topic, window in self._windows.items() if window.whole().events}
        self._windows = kept if len(kept) < _TOPICS_KEPT else {}

    def measured(self, now: float) -> list[Measured]:
        """Return what has arrived within the window, the busiest topics first."""
        seconds = max(now - self._begun[0], 1e-9)
        found = [_measured(topic, window.whole(), seconds) for topic, window in self._windows.items()]
        return sorted(found, key=lambda row: (-row.rate, row.system, row.kind))

    def turn(self, now: float) -> None:
        """Begin the next part of the window; the oldest may end."""
        self._begun.append(now)
        for window in self._windows.values():
            window.parts.append(_Part())


def _add(window: _Window, head: Head, arrived: float) -> None:
    part, sent = window.parts[-1], head.sent
    part.events += head.events
    part.sizes.add(head.bytes)
    if sent is not None:
        latency = max(arrived - sent, _LEAST_LATENCY)
        part.latencies[round(log(latency) * _BINS)] += 1
        part.slowest = max(part.slowest, latency)
    when = arrived if sent is None else sent
    if window.sent is not None:
        part.periods.add(max(0.0, when - window.sent))
    window.sent = when


def _measured(topic: Topic, part: _Part, seconds: float) -> Measured:
    least, greatest = part.sizes.extremes
    shortest, longest = part.periods.extremes
    return Measured(
        system=topic[0],
        kind=topic[1],
        seconds=seconds,
        received=part.events,
        lost=part.lost,
        rate=(part.events + part.lost) / seconds,
        bytes=part.sizes.sum / seconds,
        size=part.sizes.mean,
        size_min=None if least is None else int(least),
        size_max=None if greatest is None else int(greatest),
        period=part.periods.mean,
        period_min=shortest,
        period_max=longest,
        period_stdev=part.periods.deviation,
        latency_p50=_percentile(part.latencies, 0.50),
        latency_p99=_percentile(part.latencies, 0.99),
        latency_max=part.slowest if part.latencies else None,
    )


def _percentile(latencies: Counter[int], share: float) -> float | None:
    due = share * latencies.total()
    for bin_, count in sorted(latencies.items()):
        due -= count
        if due <= 0:
            return exp(bin_ / _BINS)
    return None
