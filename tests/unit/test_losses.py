"""What a subscriber has lost, and whether it is losing now."""

from __future__ import annotations

import zbus
from zbus.observe.losses import Losses, losses
from zbus.roster.numbers import Publications

from .published import channel, numbers

NOW = 1_000.0


def told(age: float, *lost: int) -> zbus.Numbers:
    """Return a publication of `age` seconds ago, of channels that had lost so many events."""
    channels = [channel(number, "a", lost=count, unread=float(number)) for number, count in enumerate(lost)]
    other = channel(9, "b", lost=1_000, unread=50.0)
    return numbers(NOW - age, channels=(*channels, other, other._replace(system="a", overflow="block")))


def found(latest: zbus.Numbers | None, former: zbus.Numbers | None) -> Losses:
    return losses(Publications(latest, former), "drop", ("a", "*"), NOW)


def test_only_channels_with_that_pattern_and_overflow_count() -> None:
    assert found(told(1, 3, 4), told(2, 3, 3)) == Losses(7, 0.0, 1.0)
    assert found(told(1, 0), told(2, 0)) == Losses(0, None, 0.0)
    assert found(told(1), told(2)) == Losses(0, None, None)
    assert found(None, None) == Losses(0, None, None)


def test_who_has_lost_nothing_since_the_publication_before_is_not_losing() -> None:
    assert found(told(1, 7), told(2, 7)).quiet == 2.0
    assert found(told(60, 7), told(61, 7)).quiet == 61.0


def test_who_has_lost_something_and_was_idle_since_is_not_losing() -> None:
    assert found(told(5, 7), told(6, 3)).quiet == 0.0
    assert found(told(60, 7), told(61, 3)).quiet == 60.0
    assert found(told(60, 7), None).quiet == 60.0


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    assert found(told(-5, 7), told(-4, 7)).quiet == 0.0
