"""The ledger of a soak: what became of each event, for each subscription that selects it.

A proof reads what both ends noted and nothing of the product. For a pair of event and subscription there is
one column of the ledger, or else a violation of the contract:

- *delivered*, once, intact, in the publisher's order, under the right number;
- *reported*: within a `Gap` that names exactly what is missing, where a queue could have been full;
- *outside*: sent before `subscribe` returned or after `close` began; what overlaps these moments may be
  either;
- *excused*: missing, because one of the two ended before it was delivered or told lost. What was dropped is
  told when its publisher is at rest (W46). By then, the channel may have closed, or the publisher died.

All times are nanoseconds of CLOCK_MONOTONIC, which processes of one machine share.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from .soak_events import TOPICS, selects

__all__ = [
    "BLOCK_FLIGHT",
    "COLUMNS",
    "FLIGHT",
    "GAP",
    "INTACT",
    "REST",
    "SECOND",
    "TORN",
    "Hearing",
    "Ledger",
    "Receipt",
    "Sending",
    "Span",
    "awake_after",
    "awake_before",
    "listened",
    "overlaps",
]

SECOND = 1_000_000_000
FLIGHT = 3 * SECOND
"""What has been on its way for longer than this, while nobody concerned was stopped, is not on its way."""

BLOCK_FLIGHT = 10 * SECOND
"""The same for `block`: a queue of ten takes a few events each time its process gets a CPU."""

REST = 2 * SECOND
"""A publisher that has sent nothing for so long has sent its marks, and the receiver has passed them on."""

INTACT, TORN, GAP = 0, 1, 2

COLUMNS = {
    "delivered": "delivered: once, intact, in order",
    "reported": "reported lost, exactly",
    "outside": "sent while the subscription was not there",
    "counted": "excused: after as many as `zbus sub` was asked for",
    "closing": "excused: on its way, or dropped and not yet told, when the channel closed",
    "died_with_subscriber": "excused: not read, or not yet told, when the subscriber was killed",
    "died_with_publisher": "excused: in a publisher that was killed, or not yet told by it (W36)",
    "not_handed_over": "excused: the subscriber was stopped or full for the whole linger of the publisher",
    "not_back": "excused: given up by a publisher that closed before the subscriber was back (R21)",
}

Span = tuple[int, int]


class Receipt(NamedTuple):
    """What a subscription got: an event, or (`what` is GAP, `event` and `seq` first and last) a gap."""

    origin: int
    event: int
    seq: int
    publisher: int
    topic: int
    what: int = INTACT


@dataclass
class Sending:
    """The life of a publisher. Its events are numbered from 1; the lists begin with the first.

    Attributes:
        begun, returned: when `send` was called and when it returned; 0 if it never did.
        frames: the number of the frame in which an event travelled.
        killed: when SIGKILL was sent; 0 if it was not.
        holds: whether it holds events to send them as batches (W50).
        linger: how long its `close` hands over.
        gave_up: when it gave up joining a subscriber, and that one's process id.
        since: what was begun before was judged already.
        origin: under which it numbers; 0 if unknown.
        ended: when it was seen to have ended; 0 if it has not.
        heard: for each topic, a 1 for every event during which a subscription was there.
        rests: when it had been at rest, each time.
        handed_over: by when each event had surely been numbered and sent; 0 if its `send` never returned.
    """

    number: int
    topics: list[int]
    begun: list[int]
    returned: list[int]
    frames: list[int]
    killed: int = 0
    linger: float = inf
    stops: list[Span] = field(default_factory=list)
    gave_up: list[tuple[int, int]] = field(default_factory=list)
    since: int = 0
    origin: int = 0
    ended: int = 0
    holds: bool = False

    def __post_init__(self) -> None:
        self.by_topic: dict[int, list[int]] = defaultdict(list)
        self.seqs: list[int] = []
        self.heard: dict[int, bytearray] = {}
        for event, topic in enumerate(self.topics, 1):
            self.by_topic[topic].append(event)
            self.seqs.append(len(self.by_topic[topic]))
        for topic, events in self.by_topic.items():
            self.heard[topic] = bytearray(len(events))
        self.handed_over: list[float] = self._handed_over() if self.holds else [*self.returned]
        ends = [*self.begun[1:], self.killed or inf]
        self.rests = [
            rest
            for returned, end in zip(self.returned, ends, strict=False)
            if returned and end - returned > REST and (rest := awake_after(returned, REST, self.stops)) <= end
        ]

    def _handed_over(self) -> list[float]:
        """Return by when what may be held had gone: before an event of another topic, or at the end."""
        moments: list[float] = [0.0] * len(self.topics)
        moment: float = self.ended or inf
        later = None
        for event in reversed(range(len(self.topics))):
            if later is not None and self.topics[later] != self.topics[event]:
                moment = self.returned[later] or moment
            moments[event] = moment if self.returned[event] else 0
            later = event
        return moments

    def rest_after(self, event: int) -> float:
        """Return when it had been at rest after an event; never, perhaps."""
        later = bisect_left(self.rests, self.returned[event - 1] or inf)
        return self.rests[later] if later < len(self.rests) else inf


@dataclass
class Hearing:
    """The life of a subscription.

    Attributes:
        asked, opened: when `subscribe` was called and when it returned; 0 if it never did.
        end: when `close` was called or SIGKILL was sent.
        calm: when it last found its queue empty, having read as fast as it can for a while; 0 if unknown.
        count: how many events it was to read before it closed; 0 for any number.
        lost: what the channel counted in the end; `None` if nobody could ask it any more.
    """

    name: str
    pid: int
    system: str
    kind: str
    overflow: str
    capacity: int
    asked: int
    opened: int
    end: int
    calm: int = 0
    killed: bool = False
    count: int = 0
    lost: int | None = None
    malformed: int = 0
    stops: list[Span] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    def wants(self, topic: int) -> bool:
        """Return whether the patterns select a topic, by its number."""
        system, kind = TOPICS[topic]
        return selects(self.system, system) and selects(self.kind, kind)

    def __str__(self) -> str:
        state = "killed" if self.killed else "closed"
        return f"{self.name} ({self.system} {self.kind}, {self.overflow} {self.capacity}, {state})"


class Ledger:
    """The sums, and what was found wrong."""

    TEXTS = 30

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.texts: list[str] = []

    def violation(self, what: str, events: int = 1) -> None:
        """Note that the contract was broken, for so many events."""
        self.sums["violations"] += events
        if len(self.texts) < self.TEXTS:
            self.texts.append(what)

    def add(self, sums: dict[str, int], texts: list[str]) -> None:
        """Take in another ledger."""
        self.sums.update(sums)
        self.texts.extend(texts[: self.TEXTS - len(self.texts)])


def awake_before(moment: int, span: int, stops: list[Span]) -> int:
    """Return the time from which to `moment` there are `span` nanoseconds outside of the stops."""
    for start, end in sorted(stops, key=lambda stop: -stop[1]):
        if start >= moment:
            continue
        if end <= moment - span:
            break
        span -= max(0, moment - end)
        moment = min(moment, start)
    return moment - span


def awake_after(moment: int, span: int, stops: list[Span]) -> int:
    """Return the time to which from `moment` there are `span` nanoseconds outside of the stops."""
    for start, end in sorted(stops):
        if end <= moment:
            continue
        if start >= moment + span:
            break
        span -= max(0, start - moment)
        moment = max(moment, end)
    return moment + span


def listened(sending: Sending, hearing: Hearing) -> range:
    """Return the events sent, from their first to their last moment, while the subscription was there."""
    if not hearing.opened:
        return range(1, 1)
    return range(bisect_right(sending.begun, hearing.opened) + 1, bisect_left(sending.begun, hearing.end) + 1)


def overlaps(sending: Sending, hearing: Hearing) -> bool:
    """Return whether anything may have been sent while the subscription was there."""
    end = sending.ended or (sending.killed and sending.killed + FLIGHT) or inf
    return bool(sending.begun) and sending.begun[0] < hearing.end and hearing.asked < end
