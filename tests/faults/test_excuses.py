"""The checker of the soak: what excuses a loss, and how far each excuse reaches. See also `test_ledger`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .ledger import GAP, Hearing, Ledger, Receipt, Sending
from .proof import prove, with_room
from .soak_events import TOOL_TOPIC
from .test_ledger import accepted, at, gap, got, hearing, refused, sending

SMALL = 9
"""The number of a publisher whose queues hold 64 frames."""


def small(topics: str) -> Sending:
    return replace(sending(topics), number=SMALL)


def violations(sendings: list[Sending], *hearings: Hearing) -> list[str]:
    ledger = Ledger()
    prove(sendings, hearings, ledger)
    return ledger.texts


# A publisher has one queue for all `drop` subscriptions of a process (W53).

BESIDE = {"name": "beside", "system": "metrics", "calm": 0, "end": at(20.5), "killed": True, "lost": None}


@pytest.mark.parametrize(
    ("changes", "room"),
    [
        ({}, False),
        ({"pid": 2}, True),
        ({"overflow": "block"}, True),
        ({"asked": at(99)}, False),
        ({"asked": at(101), "end": at(102)}, True),
        ({"asked": at(-9), "end": at(-5)}, True),
    ],
)
def test_what_another_subscription_of_the_process_admits_takes_room_in_the_publisher(
    changes: dict[str, object], room: bool
) -> None:
    sent = small("c" * 20 + "ttt")
    receipts = got(21, 1, publisher=SMALL), gap(2, 2), got(23, 3, publisher=SMALL)
    heard, beside = hearing(*receipts, system="soak"), hearing(**BESIDE | changes)
    assert with_room([sent], heard, [heard, beside]) == ({SMALL} if room else set())
    told = [text for text in violations([sent], heard, beside) if "beside" not in text]
    assert [text.partition(":")[0] for text in told] == room * ["lost although there was room"]


def test_a_publisher_with_large_queues_has_room_whatever_they_admit() -> None:
    heard = hearing()
    assert with_room([sending("c" * 20 + "ttt")], heard, [heard, hearing(**BESIDE)]) == {7}


def test_marks_take_places_too() -> None:
    sent, receipts = sending("ttt"), (got(1, 1), gap(2, 2), got(3, 3))
    accepted(sent, hearing(*receipts, capacity=11), delivered=2, reported=1)
    refused(sent, hearing(*receipts, capacity=12), "lost although there was room")
    heard = hearing()
    assert with_room([small("t" * 10)], heard, [heard]) == {SMALL}
    assert with_room([small("t" * 11)], heard, [heard]) == set()


# What coalesce holds is sent some time after `send` has returned (W50).

JOINED = {"asked": at(2.5), "opened": at(2.6), "capacity": 2}


def test_what_was_held_may_be_lost_to_who_joined_meanwhile() -> None:
    heard = hearing(gap(2, 3), got(4, 4), **JOINED)
    accepted(sending("tttt", holds=True), heard, delivered=1, reported=2, outside=1)
    refused(sending("tttt"), heard, "numbers 2 to 3, of before it had joined")


def test_so_may_what_a_mark_tells_of() -> None:
    heard = hearing(got(4, 4), gap(2, 3), **JOINED)
    accepted(sending("tttt", holds=True), heard, delivered=1, reported=2, outside=1)
    refused(sending("tttt"), heard, "numbers 2 to 3, of before it had joined")


def test_an_event_of_another_topic_goes_after_what_is_held() -> None:
    begun = [at(second) for second in (1, 2, 2.2, 3, 4)]
    heard = hearing(gap(2, 3), got(5, 4), system="*", **JOINED)
    sent = sending("ttctt", holds=True, begun=begun, returned=begun)
    refused(sent, heard, "numbers 2 to 3, of before it had joined")


def test_the_end_of_a_publisher_goes_after_what_is_held() -> None:
    heard = hearing(gap(1, 2), **JOINED)
    for ended, wrong in ((at(2.4), ["wrong loss"]), (at(2.7), []), (0, [])):
        told = violations([sending("tt", holds=True, ended=ended, origin=0xAB)], heard)
        assert [text.partition(":")[0] for text in told] == wrong


def test_what_was_held_while_a_joiner_was_given_up_is_missed_too() -> None:
    """Housekeeping sends it, long after `send` has returned."""
    gave_up = [(at(2.5), 1)]
    heard = hearing(got(5, 5), gap(1, 4), asked=at(0.1), opened=at(0.2))
    accepted(sending("ttttt", gave_up=gave_up, holds=True), heard, delivered=1, reported=4)
    refused(sending("ttttt", gave_up=gave_up), heard, "lost although there was room: event 1,", 2)


# Of a gap alone, nobody may know the publisher. Tools note no origin, nor does one that is killed before.


def tool(number: int, begun: float, ended: float, **changes: int) -> Sending:
    return Sending(number, [TOOL_TOPIC], [at(begun)], [at(ended)], [0], ended=at(ended), **changes)


def lost_tool(origin: int) -> Receipt:
    return Receipt(origin, 1, 1, 0, TOOL_TOPIC, GAP)


def test_a_tool_sends_long_after_it_has_begun() -> None:
    heard = hearing(lost_tool(1), system="*", capacity=0)
    assert violations([tool(7, -3, 1)], heard) == []
    for begun, ended in ((-3, -2), (101, 102)):
        assert "from nobody" in violations([tool(7, begun, ended)], heard)[0]


def test_each_tool_is_told_lost_once_those_first_that_surely_sent_meanwhile() -> None:
    tools = [tool(7, -3, 1), tool(8, 1, 2)]
    heard = hearing(lost_tool(1), system="*", capacity=0)
    assert violations(tools, heard) == []
    heard = hearing(lost_tool(1), lost_tool(2), system="*", capacity=0)
    assert violations(tools, heard) == []
    heard = hearing(lost_tool(1), lost_tool(2), lost_tool(3), system="*", capacity=0)
    assert ["from nobody" in text for text in violations(tools, heard)] == [True]


def test_a_publisher_that_was_killed_before_it_noted_its_origin() -> None:
    sent = sending("tt", killed=at(2.5))
    heard = hearing(gap(1, 1), gap(2, 2), capacity=2)
    assert violations([sent], heard) == []
    assert "from nobody" in violations([sent], hearing(gap(1, 3), capacity=2))[0]
