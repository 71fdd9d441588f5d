"""The ledger of a link: what it excuses, and what it does not."""

from __future__ import annotations

from math import inf

from .link_ledger import Life, Losses, Sent, explain

SENT = [Sent(number, number + 0.5) for number in range(1, 21)]  # number n at n
LIVES = [Life(0.0, 8.7), Life(11.2, inf)]


def excused(between: set[int], held: set[int], most: int, longest: float) -> Losses:
    return Losses(between, held, most, longest, set())


def test_nothing_is_lost() -> None:
    assert explain(SENT, set(), LIVES) == excused(set(), set(), 0, 0.0)


def test_what_was_sent_while_no_link_ran_may_be_lost() -> None:
    assert explain(SENT, {9, 10, 11}, LIVES) == excused({9, 10, 11}, set(), 0, 0.0)


def test_what_overlaps_a_kill_or_a_join_was_sent_while_no_link_ran() -> None:
    assert explain(SENT, {8}, [Life(0.0, 8.2), Life(8.3, inf)]).between == {8}
    assert explain(SENT, {8}, [Life(8.3, inf)]).between == {8}


def test_the_last_that_a_killed_link_had_been_given_may_be_lost() -> None:
    losses = explain(SENT, {6, 7, 8, 9, 10}, LIVES)
    assert losses == excused({9, 10}, {6, 7, 8}, 3, 8.7 - 6.5)


def test_a_loss_before_one_that_arrived_has_no_excuse() -> None:
    losses = explain(SENT, {5, 7, 8}, LIVES)
    assert (losses.held, losses.unexplained) == ({7, 8}, {5})


def test_the_first_after_a_join_may_not_be_lost() -> None:
    assert explain(SENT, {11, 12}, LIVES).unexplained == {12}


def test_the_last_of_a_link_that_still_runs_may_not_be_lost() -> None:
    assert explain(SENT, {20}, LIVES).unexplained == {20}
    assert explain(SENT, {20}, LIVES).held == set()
