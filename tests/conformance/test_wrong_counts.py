"""The sequences notice a peer that counts wrong.

Each peer here is the plain one with one mistake. A test fails if the vectors do not fail the peer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import plain_peer
from .plain_peer import MAX_GAP, Malformed, PlainPeer, Stream
from .sequences import CASES, run

Stamp = dict[str, Any]


def failing(make: type[PlainPeer]) -> list[str]:
    """Return the ids of the sequences that a peer fails."""
    found = []
    for case in CASES:
        try:
            run(case, make)
        except AssertionError:
            found.append(case["id"])
    return found


class NoAccounting(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        pass


class FirstSightIsNoLoss(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return int(stamp["seq"])


class NumberOneIsAlwaysDue(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:  # noqa: ARG002
        return 1


class NoBorn(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return super().first_due({**stamp, "born": -1})


class NoSettled(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return super().first_due({**stamp, "settled": -1})


class NoFirst(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return super().first_due({**stamp, "first": -1})


class FirstWithoutSettled(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return super().first_due({"settled": 2**60, **stamp} if "first" in stamp else stamp)


class FirstHigherThanSeen(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        due = super().first_due(stamp)
        return (
            stamp["first"]
            if due == stamp["seq"] and stamp.get("settled", -1) >= 0 < stamp.get("first", 0)
            else due
        )


class SettledBeforeBorn(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        return None if 0 <= stamp.get("settled", -1) <= self.announced else super().first_due(stamp)


class JoinedIsAnnounced(PlainPeer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.announced = -1 if self.forgetful else int(self.joined)


class BornIsNotLater(PlainPeer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.joined -= 1


class SettledIsLater(PlainPeer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.announced -= self.announced > 0


class LowerNumbersAreLost(PlainPeer):
    def lose(self, due: int, seq: int) -> None:
        super().lose(*((seq, due) if seq < due else (due, seq)))


class NeverBack(PlainPeer):
    def next_due(self, due: int, seq: int, events: int) -> int:
        return max(due, seq + events)


class MarksGoBack(PlainPeer):
    def next_due(self, due: int, seq: int, events: int) -> int:  # noqa: ARG002
        return seq + events


class MarksAreEvents(PlainPeer):
    def next_due(self, due: int, seq: int, events: int) -> int:  # noqa: ARG002
        return seq + max(1, events)


class MarksAreIgnored(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        if events:
            super().count(stream, stamp, events)


class MarksAreMalformed(PlainPeer):
    def events(self, path: str, data: bytes, *, stamped: bool) -> list[tuple[str, Any]]:
        return super().events(path, data, stamped=stamped and bool(path))


class BatchesAreOne(PlainPeer):
    def next_due(self, due: int, seq: int, events: int) -> int:
        return super().next_due(due, seq, min(1, events))


class NoHeads(PlainPeer):
    def head(self, stream: Stream, stamp: Stamp) -> None:
        pass


class HeadsTwice(PlainPeer):
    def head(self, stream: Stream, stamp: Stamp) -> None:
        begin = self.begin[stream]
        super().head(stream, stamp)
        self.begin[stream] = begin


class HeadsOfOthers(PlainPeer):
    def head(self, stream: Stream, stamp: Stamp) -> None:
        announced, self.announced = self.announced, -1
        super().head(stream, stamp)
        self.announced = announced


class HeadsByEvents(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        super().count(stream, stamp, events)
        if events and stream in self.begin:
            self.head(stream, stamp)


class HeadsOfAnySize(PlainPeer):
    def head(self, stream: Stream, stamp: Stamp) -> None:
        if stamp.get("settled", -1) > self.announced and 0 < stamp.get("first", -1) < self.begin[stream]:
            self.lose(stamp["first"], self.begin[stream])
            self.begin[stream] = stamp["first"]


class JumpsOfAnySize(PlainPeer):
    def check_jump(self, due: int | None, seq: int) -> None:
        pass


class JumpsOneTooShort(PlainPeer):
    def check_jump(self, due: int | None, seq: int) -> None:
        if due is not None and seq - due >= MAX_GAP:
            raise Malformed


class ForgetsNothingElse(PlainPeer):
    def forget(self) -> None:
        joined = self.joined
        super().forget()
        self.joined = joined


class FirstCountsAfterForgetting(PlainPeer):
    def forget(self) -> None:
        super().forget()
        self.forgetful = False


class FirstCountsAgainLater(PlainPeer):
    def first_due(self, stamp: Stamp) -> int | None:
        if stamp.get("settled", -1) > self.latest_born:
            self.forgetful = False
        return super().first_due(stamp)


class ForgetsTheLatest(PlainPeer):
    def forget(self) -> None:
        while len(self.due) > 1 and len(self.due) > self.limit // 2:
            stream = next(iter(self.due))
            del self.due[stream], self.begin[stream]
            self.forgetful = True
        self.due.clear() if self.forgetful else None


class UnknownJoinIsZero(PlainPeer):
    def __init__(
        self, pattern: str, kind: str | None, announced: int | None, joined: int | None, **options: Any
    ) -> None:
        super().__init__(pattern, kind, announced or 0, joined or 0, **options)


class OneStreamForAllOrigins(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        super().count(("", *stream[1:]), stamp, events)


class OneStreamForAllKinds(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        super().count((*stream[:2], ""), stamp, events)


class OneStreamForAllSystems(PlainPeer):
    def count(self, stream: Stream, stamp: Stamp, events: int) -> None:
        super().count((stream[0], "", stream[2]), stamp, events)


class TakesAllAgain(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:  # noqa: ARG002
        return False


class SkipsAllThatIsLower(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:  # noqa: ARG002
        return super().came_before(stream, seq, events, b"via")


class SkipsBatchesThatBeginLower(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        return super().came_before(stream, seq, min(1, events), via)


class SkipsBatchesThatEndLower(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        return super().came_before(stream, seq + (events > 1), events, via)


class SkipsMarks(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        return super().came_before(stream, seq - 1 + min(1, events), max(1, events), via)


class SkipsWhatIsNotMeantYet(PlainPeer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.latest: dict[Stream, int] = {}

    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        again = bool(via) and stream not in self.due and seq <= self.latest.get(stream, 0)
        self.latest[stream] = seq
        return again or super().came_before(stream, seq, events, via)


class CountsWhatItSkips(PlainPeer):
    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        again = super().came_before(stream, seq, events, via)
        if again:
            self.due[stream] = seq + events
        return again


class CountsUnselected(PlainPeer):
    def decode(self, frame: bytes) -> list[tuple[str, Any]]:
        plain = PlainPeer("**")
        plain.receive(frame)
        self.malformed += plain.malformed and not self.malformed_here(frame)
        return super().decode(frame)

    def malformed_here(self, frame: bytes) -> bool:
        try:
            system, kind = map(plain_peer.name, frame.split(b"\0")[:2])
        except (Malformed, ValueError):
            return True
        return self.selects(system, kind)


class DeliversUnselected(PlainPeer):
    def selects(self, system: str, kind: str) -> bool:  # noqa: ARG002
        return True


class NoKinds(PlainPeer):
    def selects(self, system: str, kind: str) -> bool:  # noqa: ARG002
        return plain_peer.matches(self.pattern, system)


class CountsControlFrames(PlainPeer):
    def receive(self, frame: bytes) -> list[tuple[str, Any]]:
        self.malformed += frame.startswith(b"\xff")
        return super().receive(frame)


class MalformedIsNotCounted(PlainPeer):
    def receive(self, frame: bytes) -> list[tuple[str, Any]]:
        events = super().receive(frame)
        self.malformed = 0
        return events


class CountsMalformedStamps(PlainPeer):
    def json(self, data: bytes) -> Any:
        try:
            return super().json(data)
        except Malformed:
            return None


class LaxJson(PlainPeer):
    def json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise Malformed from None


class StampsAreText(PlainPeer):
    def decode(self, frame: bytes) -> list[tuple[str, Any]]:
        try:
            frame.split(b"\0", 4)[3].decode("ascii")
        except IndexError:
            pass
        except UnicodeDecodeError:
            raise Malformed from None
        return super().decode(frame)


PEERS = [peer for peer in list(globals().values()) if isinstance(peer, type) and PlainPeer in peer.__bases__]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: str(peer.__name__))
def test_a_peer_that_counts_wrong_fails(peer: type[PlainPeer]) -> None:
    assert failing(peer)


def test_a_peer_that_counts_nothing_fails_most_sequences() -> None:
    assert 2 * len(failing(NoAccounting)) > len(CASES)
