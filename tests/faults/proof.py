"""The proof: judge everything that one subscription noted against what the publishers noted.

It trusts neither end's word for the other. First it walks through what arrived, in the order in which it
did; then it asks for every event that did not arrive why not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from .ledger import (
    BLOCK_FLIGHT,
    FLIGHT,
    GAP,
    INTACT,
    SECOND,
    Hearing,
    Ledger,
    Receipt,
    Sending,
    awake_after,
    awake_before,
    listened,
    overlaps,
)
from .soak_events import TOPICS, capacity_of, queues

__all__ = ["prove", "with_room"]

# How many places a frame may take with what follows it: a mark in both queues, and its twin in that of the
# publisher (W46, W47).
_CHANNEL_PLACES, _PUBLISHER_PLACES = 2, 3


def prove(sendings: Sequence[Sending], hearings: Sequence[Hearing], ledger: Ledger) -> None:
    """Enter every pair of event and subscription into the ledger."""
    # A mark may tell a gap to a channel that got no event of its publisher. Others did, or the publisher has
    # noted whose it is.
    origins = {r.origin: r.publisher for hearing in hearings for r in hearing.receipts if r.what != GAP}
    origins |= {sending.origin: sending.number for sending in sendings if sending.origin}
    for sending in sendings:
        ledger.sums["events"] += sum(begun >= sending.since for begun in sending.begun)
    for hearing in hearings:
        _prove_one(sendings, hearing, hearings, origins, ledger)
    for sending in sendings:
        since = bisect_left(sending.begun, sending.since) + 1
        for topic, events in sending.by_topic.items():
            ledger.sums["unheard"] += sending.heard[topic].count(0, bisect_left(events, since))


def _prove_one(
    sendings: Sequence[Sending],
    hearing: Hearing,
    beside: Sequence[Hearing],
    known: dict[int, int],
    ledger: Ledger,
) -> None:
    ledger.sums["subscriptions"] += 1
    apart = _by_publisher(sendings, hearing, known, ledger)
    wanted = {topic for topic in range(len(TOPICS)) if hearing.wants(topic)}
    room = with_room(sendings, hearing, beside)
    for sending in sendings:
        pair = Pair(sending, hearing, wanted, sending.number in room, ledger)
        pair.walk(apart[sending.number])
        pair.account()
    counted = sum(r.seq - r.event + 1 for r in hearing.receipts if r.what == GAP)
    if hearing.lost is not None and hearing.lost != counted:
        ledger.violation(f"wrong loss count: {hearing} says {hearing.lost}, its gaps {counted}")
    if hearing.malformed:
        ledger.violation(f"malformed frames: {hearing.malformed} to {hearing}", hearing.malformed)


def with_room(sendings: Sequence[Sending], hearing: Hearing, hearings: Sequence[Hearing]) -> Collection[int]:
    """Return the publishers by number that never had a reason to drop anything for a subscription.

    A queue that can never have been half full drops nothing. Half, since libzmq tells the writer of room only
    when the reader has made as much. There are two: that of the channel, which all publishers fill, and that
    of the publisher. It has one for each process (W53), which holds what any `drop` channel there admits.
    """
    own = _queued([hearing])
    if _CHANNEL_PLACES * sum(_frames(each, hearing, own) for each in sendings) > hearing.capacity // 2:
        return ()
    # What was admitted for a channel that has closed may still be in the queue.
    shared = _queued(
        other
        for other in hearings
        if other.pid == hearing.pid
        and other.overflow == "drop"
        and other.asked < hearing.end
        and other.end > hearing.asked - FLIGHT
    )
    return {
        each.number
        for each in sendings
        if _PUBLISHER_PLACES * _frames(each, hearing, shared) <= capacity_of(each.number) // 2
    }


def _queued(hearings: Iterable[Hearing]) -> set[int]:
    """Return the topics whose events take room in a queue of at least one of these subscriptions."""
    return {
        topic for each in hearings for topic in range(len(TOPICS)) if queues(each.system, each.kind, topic)
    }


def _frames(sending: Sending, hearing: Hearing, queued: set[int]) -> int:
    first = bisect_left(sending.begun, hearing.asked - FLIGHT)
    end = bisect_left(sending.begun, hearing.end)
    return len({sending.frames[i] for i in range(first, end) if sending.topics[i] in queued})


def _by_publisher(
    sendings: Sequence[Sending], hearing: Hearing, known: dict[int, int], ledger: Ledger
) -> dict[int, list[Receipt]]:
    """Share the receipts out. A gap names an origin only; that of its publisher's events must be the same."""
    apart: dict[int, list[Receipt]] = {sending.number: [] for sending in sendings}
    origins: dict[int, int] = {}
    for receipt in hearing.receipts:
        if receipt.what != GAP and origins.setdefault(receipt.origin, receipt.publisher) != receipt.publisher:
            ledger.violation(f"two publishers under origin {receipt.origin:016x} to {hearing}")
    if len(set(origins.values())) != len(origins):
        ledger.violation(f"two origins of one publisher to {hearing}")
    silent = _silent(sendings, hearing, {*origins.values(), *known.values()})
    origins = known | origins
    for receipt in hearing.receipts:
        if receipt.what == GAP and receipt.origin not in origins:
            sent = (one for one in silent if len(one.by_topic.get(receipt.topic, ())) >= receipt.seq)
            if (sender := next(sent, None)) is not None:
                silent.remove(sender)
                origins[receipt.origin] = sender.number
        number = origins.get(receipt.origin, 0)
        if number in apart:
            apart[number].append(receipt)
        # A SIGKILL can come between word of a gap and the event that showed it.
        elif receipt.what != GAP or receipt is not hearing.receipts[-1] or not hearing.killed:
            ledger.violation(f"from nobody: {receipt} to {hearing}")
    return apart


def _silent(sendings: Sequence[Sending], hearing: Hearing, heard: Collection[int]) -> list[Sending]:
    """Return those that may have sent while a subscription was there, and whose origin nobody knows.

    They are tools, and publishers that were killed before they noted it. Those that surely sent meanwhile
    come first: a tool sends long after its process has begun.
    """
    unheard = [sending for sending in sendings if sending.number not in heard and overlaps(sending, hearing)]
    return sorted(unheard, key=lambda sending: not listened(sending, hearing))


class Pair:
    """One publisher and one subscription."""

    def __init__(
        self, sending: Sending, hearing: Hearing, wanted: set[int], room: bool, ledger: Ledger
    ) -> None:
        self.sending, self.hearing, self.wanted, self.ledger = sending, hearing, wanted, ledger
        self.may_drop = hearing.overflow == "drop" and not room
        self.delivered: set[int] = set()
        self.reported: set[int] = set()
        self.last = 0
        self.due: dict[int, int] = {}
        both = [*sending.stops, *hearing.stops]
        flight = BLOCK_FLIGHT if hearing.overflow == "block" else FLIGHT
        self.horizon = awake_before(hearing.calm, flight, both)
        self.last_words = awake_before(sending.killed, FLIGHT, both)
        self.joins = [
            (moment, awake_after(moment, FLIGHT, both))
            for moment, pid in sending.gave_up
            if pid == hearing.pid and hearing.overflow == "drop"
        ]

    def _wrong(self, what: str, event: int, events: int = 1) -> None:
        name, order = f"event {event}", ""
        if 0 < event <= len(self.sending.topics):
            system, kind = TOPICS[self.sending.topics[event - 1]]
            begun = (self.sending.begun[event - 1] - self.hearing.opened) / SECOND
            name = f"event {event}, {system} {kind} number {self.sending.seqs[event - 1]}"
            order = f", sent {begun:.3f} s after it had joined"
        count = f" ({events} events)" if events > 1 else ""
        self.ledger.violation(
            f"{what}{count}: {name} of publisher {self.sending.number} to {self.hearing}{order}", events
        )

    def walk(self, receipts: list[Receipt]) -> None:
        """Judge what arrived."""
        gaps: dict[int, int] = {}
        for receipt in receipts:
            if receipt.what == GAP and receipt.seq < self.due.get(receipt.topic, 0):
                self._walk_head(receipt)
            elif receipt.what == GAP:
                self._walk_gap(receipt)
                gaps[receipt.topic] = receipt.seq
            elif self._walk_event(receipt):
                end = gaps.pop(receipt.topic, receipt.seq - 1)
                if end != receipt.seq - 1:
                    self._wrong(f"wrong loss: a gap to number {end} before", receipt.event)
                self.due[receipt.topic] = receipt.seq + 1

    def _walk_event(self, receipt: Receipt) -> bool:
        sending, event = self.sending, receipt.event
        if not 0 < event <= len(sending.topics):
            self._wrong("never sent", event)
            return False
        if receipt.what != INTACT or receipt.topic != sending.topics[event - 1]:
            self._wrong("torn", event)
        if receipt.topic not in self.wanted:
            self._wrong("not selected", event)
        if receipt.seq != sending.seqs[event - 1]:
            self._wrong(f"wrong number {receipt.seq}", event)
        if event in self.delivered:
            self._wrong("twice", event)
            return False
        if event < self.last:
            self._wrong(f"out of order, after event {self.last}", event)
        if event in self.reported:
            self._wrong("reported lost and delivered", event)
        self.last = max(self.last, event)
        self.delivered.add(event)
        return True

    def _walk_head(self, gap: Receipt) -> None:
        """Judge what a mark told of before the first number that was counted."""
        first, last = gap.event, gap.seq
        stream = self.sending.by_topic[gap.topic] if gap.topic in self.wanted else []
        events, known = stream[first - 1 : last], self.delivered | self.reported
        # It ends where what is known begins, though what came first may have been meant for another channel.
        if not (1 <= first <= last < len(stream) and stream[last] in known) or not known.isdisjoint(events):
            self._wrong(f"wrong loss: numbers {first} to {last}, by a mark, in topic {gap.topic}", 0)
            return
        self._check_joined(gap, events[0])
        self.reported.update(events)

    def _check_joined(self, gap: Receipt, event: int) -> None:
        """See that the first event of a gap may have been sent after the subscription was asked for."""
        if 0 < self.sending.handed_over[event - 1] < self.hearing.asked:
            numbers = f"{gap.event} to {gap.seq}"
            self._wrong(f"wrong loss: numbers {numbers}, of before it had joined", event)

    def _walk_gap(self, gap: Receipt) -> None:
        first, last = gap.event, gap.seq
        stream = self.sending.by_topic[gap.topic] if gap.topic in self.wanted else []
        if not 1 <= first <= last <= len(stream):
            self._wrong(f"wrong loss: numbers {first} to {last} of {len(stream)} in topic {gap.topic}", 0)
            return
        events = stream[first - 1 : last]
        due = self.due.get(gap.topic, 0)
        if not due or (first > due and not self._meant(stream[due - 2])):
            # The first loss that can be told begins with what was sent to the subscription, not before.
            self._check_joined(gap, events[0])
        elif first != due:
            self._wrong(f"wrong loss: numbers {first} to {last} when {due} was due", events[0])
        frames = self.sending.frames
        edges = [(stream[first - 2], events[0])] if first > 1 else []
        edges += [(events[-1], stream[last])] if last < len(stream) else []
        if any(frames[before - 1] == frames[after - 1] for before, after in edges):
            self._wrong("half a batch lost", events[0])
        self.reported.update(events)
        self.due[gap.topic] = last + 1

    def _meant(self, event: int) -> bool:
        """Return whether an event was surely sent to the subscription, not just on its way to its process."""
        return self.sending.begun[event - 1] > self.hearing.opened

    def account(self) -> None:
        """Enter every event of the topics that the subscription selects."""
        there = listened(self.sending, self.hearing)
        since = bisect_left(self.sending.begun, self.sending.since) + 1
        for topic in self.wanted & self.sending.by_topic.keys():
            self._account_stream(topic, self.sending.by_topic[topic], since, there)

    def _account_stream(self, topic: int, stream: list[int], since: int, there: range) -> None:
        begin, end = bisect_left(stream, there.start), bisect_left(stream, there.stop)
        self.sending.heard[topic][begin:end] = b"\1" * (end - begin)
        known = [event for event in stream if event in self.delivered]
        first, final = (known[0], known[-1]) if known else (0, 0)
        meant = next(filter(self._meant, known), 0)
        stream = stream[bisect_left(stream, since) :]
        start = min(first or there.start, there.start)
        judged = range(bisect_left(stream, start), bisect_left(stream, max(there.stop, final + 1)))
        missing: list[int] = []
        for event in (stream[i] for i in judged):
            if event in self.reported:
                self._account_reported(event)
            elif event in self.delivered:
                pass
            elif column := self._why(event, meant, final, event in there):
                self.ledger.sums[column] += 1
            else:
                missing.append(event)
        early = sum(event in self.reported for event in stream[: judged.start])
        sums = self.ledger.sums
        sums["pairs"] += len(stream)
        sums["delivered"] += len(known) - bisect_left(known, since)
        sums["reported"] += early
        sums["outside"] += len(stream) - len(judged) - early
        self._silent(missing)

    def _account_reported(self, event: int) -> None:
        self.ledger.sums["reported"] += 1
        if not self.may_drop and not self._given_up(event):
            # That it was no loss at all, but a late join, tells more than that there was room.
            late = self.sending.begun[event - 1] <= self.hearing.opened
            self._wrong(
                "reported, but of before it had joined" if late else "lost although there was room", event
            )

    def _silent(self, missing: list[int]) -> None:
        """Report silent losses, a run of them at a time."""
        run: list[int] = []
        for event, after in pairwise([*missing, 0]):
            run.append(event)
            if after == 0 or self.sending.seqs[after - 1] != self.sending.seqs[event - 1] + 1:
                self._wrong("lost silently", run[0], len(run))
                run = []

    def _why(self, event: int, meant: int, final: int, there: bool) -> str:
        """Return the column of an event that did not arrive, empty if nothing excuses it.

        `meant` is the first that arrived of those sent to the subscription, `final` the last.
        """
        if 0 < meant < event < final:
            return ""  # the channel had a number before it and one after it
        if not there:
            return "outside"
        if event > self.last and (tail := self._why_tail(event)):
            return tail
        if self._given_up(event) and self._not_back():
            return "not_back"
        return self._why_untold(event) if self.may_drop or self._given_up(event) else ""

    def _not_back(self) -> bool:
        """Return whether the publisher closed before the subscriber that it gave up was back."""
        ended = self.sending.ended
        return any(moment <= ended <= back for moment, back in self.joins)

    def _why_untold(self, event: int) -> str:
        """Return the column of an event that may have been dropped, if no mark had to tell of it."""
        sending, hearing, rest = self.sending, self.hearing, self.sending.rest_after(event)
        if sending.killed and rest >= self.last_words:
            return "died_with_publisher"
        if rest >= self.horizon:
            return "died_with_subscriber" if hearing.killed else "closing"
        return ""

    def _why_tail(self, event: int) -> str:
        """Return the column of an event after which nothing of its publisher came through."""
        sending, hearing = self.sending, self.hearing
        returned = sending.returned[event - 1]
        if not returned:
            return "died_with_publisher"
        if 0 < hearing.count <= len(hearing.receipts):
            return "counted"
        if returned >= self.horizon:
            return "died_with_subscriber" if hearing.killed else "closing"
        # A full `block` subscriber holds what was sent, for as long as it likes.
        if sending.killed and (hearing.overflow == "block" or returned >= self.last_words):
            return "died_with_publisher"
        stopped = any(
            start <= returned + FLIGHT and returned + sending.linger <= end for start, end in hearing.stops
        )
        return "not_handed_over" if stopped else ""

    def _given_up(self, event: int) -> bool:
        begun, sent = self.sending.begun[event - 1], self.sending.handed_over[event - 1]
        return any(start <= (sent or begun) and begun <= end for start, end in self.joins)
