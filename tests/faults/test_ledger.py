"""The checker of the soak on histories written by hand: those it must accept, and those it must refuse.
One publisher sends to two topics, an event a second; a subscription is there from 0 s to 100 s.
"""

from __future__ import annotations

from typing import Any

import pytest

from .ledger import (
    GAP,
    INTACT,
    SECOND,
    TORN,
    Hearing,
    Ledger,
    Receipt,
    Sending,
    awake_after,
    awake_before,
)
from .proof import prove
from .soak_events import TOOL_TOPIC, TOPIC_NUMBER

TICK = TOPIC_NUMBER["soak", "tick"]
CPU = TOPIC_NUMBER["metrics", "cpu"]
ORIGIN = 0xAB
DAY = 86_400 * SECOND  # so that no time is 0 or negative


def at(seconds: float) -> int:
    return DAY + int(seconds * SECOND)


def sending(topics: str, first: float = 1.0, **changes: Any) -> Sending:
    """Return a publisher that sent one event a second: `t` to TICK, `c` to CPU."""
    begun = [at(first + second) for second in range(len(topics))]
    facts: dict[str, Any] = {
        "topics": [TICK if letter == "t" else CPU for letter in topics],
        "begun": begun,
        "returned": [moment + SECOND // 100 for moment in begun],
        "frames": list(range(len(topics))),
    }
    return Sending(7, **{**facts, **changes})


def got(event: int, seq: int, topic: int = TICK, what: int = INTACT, **changes: int) -> Receipt:
    return Receipt(changes.get("origin", ORIGIN), event, seq, changes.get("publisher", 7), topic, what)


def gap(first: int, last: int, topic: int = TICK) -> Receipt:
    return Receipt(ORIGIN, first, last, 0, topic, GAP)


def hearing(*receipts: Receipt, **changes: Any) -> Hearing:
    """Return a subscription to TICK; `capacity=2` has been full, the default never."""
    facts: dict[str, Any] = {
        "name": "it",
        "pid": 1,
        "system": "soak",
        "kind": "*",
        "overflow": "drop",
        "capacity": 1000,
        "asked": at(-1),
        "opened": at(0),
        "end": at(100),
        "calm": at(99),
        "lost": sum(r.seq - r.event + 1 for r in receipts if r.what == GAP),
    }
    return Hearing(**{**facts, **changes}, receipts=list(receipts))


def verdict(sent: Sending, heard: Hearing) -> Ledger:
    ledger = Ledger()
    prove([sent], [heard], ledger)
    return ledger


def accepted(sent: Sending, heard: Hearing, **columns: int) -> None:
    """Assert that there is no violation and that the columns have these sums, the others 0."""
    ledger = verdict(sent, heard)
    assert ledger.texts == []
    sums = {name: number for name, number in ledger.sums.items() if number}
    assert sums.pop("pairs") == sum(columns.values())
    assert sums.pop("events") == len(sent.topics)
    assert sums.pop("subscriptions") == 1
    sums.pop("unheard", 0)
    assert sums == {name: number for name, number in columns.items() if number}


def refused(sent: Sending, heard: Hearing, word: str, events: int = 1) -> None:
    ledger = verdict(sent, heard)
    assert [text for text in ledger.texts if word in text], ledger.texts
    assert ledger.sums["violations"] == events, ledger.texts


def run(first: int, last: int) -> list[Receipt]:
    return [got(number, number) for number in range(first, last + 1)]


# What is as it should be.


def test_all_delivered() -> None:
    accepted(sending("ttt"), hearing(*run(1, 3)), delivered=3)


def test_topics_that_are_not_selected_make_no_pairs() -> None:
    accepted(sending("tct"), hearing(got(1, 1), got(3, 2)), delivered=2)


def test_before_and_after_the_subscription_is_outside() -> None:
    heard = hearing(got(3, 3), got(4, 4), asked=at(2.2), opened=at(2.5), end=at(4.5), calm=at(4.4))
    accepted(sending("tttttt"), heard, delivered=2, outside=4)


def test_what_was_on_its_way_when_it_joined_may_come() -> None:
    heard = hearing(*run(2, 4), asked=at(2.2), opened=at(2.5))
    accepted(sending("tttt"), heard, delivered=3, outside=1)


def test_what_overlaps_the_join_may_come_or_not() -> None:
    sent = sending("tt", first=1.0, begun=[at(1), at(2)], returned=[at(1.5), at(2.1)])
    for receipts in ([got(1, 1), got(2, 2)], [got(2, 2)]):
        heard = hearing(*receipts, asked=at(1.1), opened=at(1.2))
        accepted(sent, heard, delivered=len(receipts), outside=2 - len(receipts))


def test_a_full_queue_reports_what_it_dropped() -> None:
    accepted(sending("ttttt"), hearing(got(1, 1), gap(2, 4), got(5, 5), capacity=2), delivered=2, reported=3)


def test_a_young_topic_shows_what_was_dropped_before_its_first() -> None:
    accepted(sending("ttt"), hearing(gap(1, 2), got(3, 3), capacity=2), delivered=1, reported=2)


def test_a_tail_that_a_full_queue_dropped_is_told_at_rest() -> None:
    accepted(sending("ttt"), hearing(got(1, 1), gap(2, 3), capacity=2), delivered=1, reported=2)
    accepted(sending("ttt", origin=ORIGIN), hearing(gap(1, 3), capacity=2), reported=3)


def test_a_tail_that_a_full_queue_dropped_need_not_be_told_before_the_publisher_rests() -> None:
    heard = hearing(got(1, 1), got(4, 1, CPU), system="*", capacity=2, end=at(7), calm=at(6.9))
    accepted(sending("tttccccc"), heard, delivered=2, closing=4, outside=2)


def test_a_head_that_a_full_queue_dropped_is_told_by_a_mark() -> None:
    times = {"asked": at(1.2), "opened": at(1.5), "capacity": 2}
    accepted(sending("tttt"), hearing(got(4, 4), gap(2, 3), **times), delivered=1, reported=2, outside=1)


def test_a_head_that_is_told_late_though_something_on_its_way_had_come_before() -> None:
    times = {"asked": at(1.2), "opened": at(1.5), "capacity": 2}
    accepted(sending("tttt"), hearing(got(1, 1), got(4, 4), gap(2, 3), **times), delivered=2, reported=2)
    refused(sending("tttt"), hearing(got(1, 1), got(4, 4), gap(1, 3), **times), "wrong loss", 3)


def test_a_loss_after_what_was_on_its_way_at_the_join() -> None:
    times = {"asked": at(2.2), "opened": at(2.5), "capacity": 2}
    heard = hearing(gap(3, 5), got(6, 6), **times)
    accepted(sending("tttttt"), heard, delivered=1, reported=3, outside=2)


def test_what_was_sent_just_before_the_close_may_be_on_its_way() -> None:
    heard = hearing(*run(1, 2), end=at(5), calm=at(4.9))
    accepted(sending("tttt"), heard, delivered=2, closing=2)


def test_a_stopped_publisher_has_it_on_its_way_for_longer() -> None:
    heard = hearing(*run(1, 2), end=at(30), calm=at(29))
    accepted(sending("ttt", stops=[(at(3.5), at(28))]), heard, delivered=2, closing=1)


def test_a_killed_subscriber_misses_a_tail() -> None:
    heard = hearing(*run(1, 2), end=at(5), calm=at(4.9), killed=True, lost=None)
    accepted(sending("tttt"), heard, delivered=2, died_with_subscriber=2)


def test_a_killed_publisher_takes_a_tail_with_it() -> None:
    sent = sending("tttt", killed=at(4.5), returned=[at(1.1), at(2.1), at(3.1), 0])
    accepted(sent, hearing(*run(1, 2)), delivered=2, died_with_publisher=2)


def test_a_joiner_that_was_given_up_is_told_what_it_missed() -> None:
    sent = sending("ttttt", gave_up=[(at(1.005), 1)])
    heard = hearing(*run(4, 5), gap(1, 3), asked=at(0.1), opened=at(0.2))
    accepted(sent, heard, delivered=2, reported=3)


def test_a_publisher_that_closes_before_a_joiner_is_back_cannot_tell_it() -> None:
    sent = sending("tt", gave_up=[(at(1.005), 1)], ended=at(2.5))
    accepted(sent, hearing(stops=[(at(0.5), at(3))]), not_back=2)


def test_a_short_linger_excuses_nothing_but_a_stop_as_long() -> None:
    sent = sending("t", linger=SECOND)
    accepted(sent, hearing(stops=[(at(1), at(3))]), not_handed_over=1)
    refused(sent, hearing(stops=[(at(1), at(1.8))]), "lost silently")


def test_a_tool_that_has_had_its_count_misses_the_rest() -> None:
    accepted(sending("tttt"), hearing(*run(1, 2), count=2, calm=0), delivered=2, counted=2)


def test_events_of_an_earlier_act_only_count_as_numbers() -> None:
    ledger = verdict(sending("tttt", since=at(2.5)), hearing(*run(3, 4), asked=at(2.6), opened=at(2.7)))
    assert ledger.texts == []
    assert (ledger.sums["events"], ledger.sums["pairs"], ledger.sums["delivered"]) == (2, 2, 2)


def test_a_killed_publisher_that_was_in_the_call_may_have_sent_it() -> None:
    sent = sending("tt", killed=at(2.5), returned=[at(1.1), 0])
    accepted(sent, hearing(*run(1, 2)), delivered=2)


def test_an_event_while_nobody_listened() -> None:
    ledger = verdict(sending("ttct"), hearing(got(2, 2), asked=at(1.5), opened=at(1.6), end=at(2.5)))
    assert ledger.texts == []
    assert ledger.sums["unheard"] == 3


def test_what_is_queued_and_not_selected_may_fill_a_queue() -> None:
    sent = sending("ccccccttt")
    heard = hearing(got(7, 1), gap(2, 2), got(9, 3), system="**", kind="tick", capacity=9)
    accepted(sent, heard, delivered=2, reported=1)


# What must be refused.


def test_a_silent_loss_in_the_middle() -> None:
    refused(sending("tttt"), hearing(got(1, 1), got(4, 4)), "lost silently (2 events)", 2)


def test_a_silent_loss_in_the_middle_even_if_the_queue_was_full() -> None:
    refused(sending("tttt"), hearing(got(1, 1), got(4, 4), capacity=2), "lost silently", 2)


def test_a_silent_loss_of_the_first_after_a_join() -> None:
    heard = hearing(*run(4, 5), asked=at(1.2), opened=at(1.5))
    refused(sending("ttttt"), heard, "lost silently (2 events): event 2,", 2)


def test_a_young_topic_whose_first_is_not_reported() -> None:
    refused(sending("ttt"), hearing(got(3, 3), capacity=2), "lost silently", 2)


def test_a_silent_tail_of_a_publisher_at_rest_and_a_silent_head() -> None:
    refused(sending("ttt"), hearing(got(1, 1), capacity=2), "lost silently", 2)
    heard = hearing(got(4, 4), asked=at(1.2), opened=at(1.5), capacity=2)
    refused(sending("tttt"), heard, "lost silently", 2)


def test_a_tool_whose_only_event_was_lost() -> None:
    sent = Sending(7, [TOOL_TOPIC], [at(1)], [at(2)], [0])
    heard = hearing(gap(1, 1, TOOL_TOPIC), system="*", capacity=0)
    accepted(sent, heard, reported=1)
    refused(sent, hearing(*heard.receipts * 2, system="*", capacity=0), "wrong loss")


def test_a_silent_loss_of_a_joiner_given_up() -> None:
    sent = sending("ttttt", gave_up=[(at(1.005), 1)])
    refused(sent, hearing(*run(4, 5), asked=at(0.1), opened=at(0.2)), "lost silently", 3)


def test_a_silent_loss_at_the_end_or_of_everything() -> None:
    refused(sending("ttt"), hearing(*run(1, 2)), "lost silently")
    refused(sending("ttt"), hearing(), "lost silently", 3)


@pytest.mark.parametrize("end", [{"killed": True, "lost": None}, {}])
def test_more_than_a_tail_is_missing_at_the_end_of_a_subscription(end: dict[str, Any]) -> None:
    sent = sending("tct")
    heard = hearing(got(2, 1, CPU), got(3, 2), system="*", end=at(3.5), calm=at(3.4), **end)
    refused(sent, heard, "lost silently: event 1,")


def test_what_was_sent_long_before_the_subscriber_was_killed() -> None:
    heard = hearing(got(1, 1), end=at(30), calm=at(29), killed=True, lost=None)
    refused(sending("ttt"), heard, "lost silently", 2)


def test_what_was_sent_long_before_the_publisher_was_killed() -> None:
    refused(sending("ttt", killed=at(30)), hearing(got(1, 1)), "lost silently", 2)


def test_what_was_sent_after_a_join_time_out_of_another() -> None:
    heard = hearing(*run(5, 6), asked=at(0.1), opened=at(0.2))
    refused(sending("tttttt", gave_up=[(at(1.005), 2)]), heard, "lost silently", 4)


def test_block_may_lose_nothing_even_if_it_says_so() -> None:
    heard = hearing(got(1, 1), gap(2, 2), got(3, 3), overflow="block", capacity=2)
    refused(sending("ttt"), heard, "lost although there was room")


def test_a_loss_that_is_reported_although_there_was_room() -> None:
    refused(sending("ttt"), hearing(got(1, 1), gap(2, 2), got(3, 3)), "lost although there was room")


def test_a_gap_between_what_came_before_it_had_joined_and_after() -> None:
    heard = hearing(got(1, 1), gap(2, 2), *run(3, 4), asked=at(1.5), opened=at(2.5))
    refused(sending("tttt"), heard, "reported, but of before it had joined: event 2,")


def test_a_silent_loss_after_what_was_on_its_way_at_the_join() -> None:
    heard = hearing(got(1, 1), got(4, 4), asked=at(2.2), opened=at(2.5))
    refused(sending("tttt"), heard, "lost silently: event 3,")


def test_a_gap_that_begins_too_late_after_what_was_meant() -> None:
    heard = hearing(got(1, 1), got(3, 3), gap(5, 5), got(6, 6), asked=at(2.2), opened=at(2.5), capacity=2)
    refused(sending("tttttt"), heard, "numbers 5 to 5 when 4 was due", events=2)


def test_a_duplicate() -> None:
    refused(sending("tt"), hearing(got(1, 1), got(1, 1), got(2, 2)), "twice")


def test_disorder() -> None:
    refused(sending("tct"), hearing(got(1, 1), got(3, 2), got(2, 1, CPU), system="*"), "out of order")


def test_a_torn_event() -> None:
    refused(sending("tt"), hearing(got(1, 1), got(2, 2, what=TORN)), "torn")
    refused(sending("tc"), hearing(got(1, 1), got(2, 1, TICK)), "torn")


def test_a_wrong_number() -> None:
    refused(sending("tt"), hearing(got(1, 1), got(2, 3)), "wrong number 3")


def test_an_event_that_was_never_sent() -> None:
    refused(sending("t"), hearing(got(1, 1), got(2, 2)), "never sent")
    refused(sending("t"), hearing(got(1, 1), got(1, 1, publisher=8, origin=9)), "from nobody")


def test_an_event_that_was_not_selected() -> None:
    refused(sending("tc"), hearing(got(1, 1), got(2, 1, CPU)), "not selected")


def test_publishers_that_share_an_origin() -> None:
    heard = hearing(got(1, 1), got(1, 1, publisher=8))
    assert "two publishers under origin" in verdict(sending("t"), heard).texts[0]


def test_a_publisher_with_two_origins() -> None:
    assert "two origins" in verdict(sending("tt"), hearing(got(1, 1), got(2, 2, origin=9))).texts[0]


@pytest.mark.parametrize(
    "receipts",
    [
        (got(1, 1), gap(2, 4), got(4, 4), got(5, 5)),  # one too many
        (got(1, 1), gap(2, 2), got(4, 4), got(5, 5)),  # one too few
        (got(1, 1), gap(3, 3), got(4, 4), got(5, 5)),  # the first is not in it
        (got(1, 1), got(2, 2), gap(2, 3), got(4, 4), got(5, 5)),  # one was delivered
        (got(1, 1), gap(2, 9), got(5, 5)),  # never sent
        (gap(1, 3), gap(1, 3), got(4, 4), got(5, 5)),  # told twice
    ],
)
def test_a_gap_that_is_not_what_is_missing(receipts: tuple[Receipt, ...]) -> None:
    ledger = verdict(sending("ttttt"), hearing(*receipts, capacity=2))
    assert ledger.sums["violations"]


def test_a_late_join_is_no_loss() -> None:
    heard = hearing(gap(1, 2), *run(3, 4), asked=at(2.2), opened=at(2.5), capacity=2)
    refused(sending("tttt"), heard, "of before it had joined")


def test_half_a_batch() -> None:
    heard = hearing(got(1, 1), gap(2, 2), *run(3, 4), capacity=2)
    refused(sending("tttt", frames=[0, 1, 1, 2]), heard, "half a batch")


def test_a_wrong_loss_count() -> None:
    heard = hearing(got(1, 1), gap(2, 2), got(3, 3), capacity=2, lost=2)
    refused(sending("ttt"), heard, "wrong loss count")


def test_malformed_frames() -> None:
    refused(sending("t"), hearing(got(1, 1), malformed=1), "malformed")


# What the proof stands on.


def test_time_while_stopped_does_not_count() -> None:
    stops = [(10, 20), (30, 40)]
    assert awake_before(50, 5, stops) == 45
    assert awake_before(50, 15, stops) == 25
    assert awake_before(35, 5, stops) == 25
    assert awake_before(100, 75, [(10, 1 << 62)]) == -65
    assert awake_after(0, 5, stops) == 5
    assert awake_after(0, 15, stops) == 25
    assert awake_after(15, 15, stops) == 45
    assert awake_after(50, 5, stops) == 55
