"""The time in a stamp: how old it may be, and what a clock that is set does to it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from zbus.sending import time_field
from zbus.sending.time_field import TimeField


class Clocks:
    """Stands in for the module `time`; `mono` and `real` are nanoseconds."""

    def __init__(self) -> None:
        self.mono = 5_000_000_000
        self.real = 1_764_192_207_000_001_999

    def monotonic(self) -> float:
        return self.mono / 1e9

    def time_ns(self) -> int:
        return self.real

    def pass_by(self, nanoseconds: int) -> None:
        self.mono += nanoseconds
        self.real += nanoseconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(time_field, "time", made)
    return made


def test_it_is_in_whole_microseconds_since_the_epoch(clocks: Clocks) -> None:
    assert TimeField().read() == b"1764192207000001"


def test_it_is_never_100_microseconds_old(clocks: Clocks) -> None:
    field = TimeField()
    seen = []
    for _ in range(1000):
        clocks.pass_by(7_000)
        seen.append(clocks.real // 1000 - int(field.read()))
    assert 0 <= min(seen) <= max(seen) < 101
    assert max(seen) > 80  # so it was not read each time


def test_it_never_goes_back_by_itself(clocks: Clocks) -> None:
    field = TimeField()
    seen = []
    for step in (1, 99_000, 2_000, 100_000, 50_000_000, 3) * 20:
        clocks.pass_by(step)
        seen.append(int(field.read()))
    assert all(before <= after for before, after in pairwise(seen))


@pytest.mark.parametrize("seconds", [-7200, -1, 1, 7200])
def test_it_follows_a_clock_that_is_set(clocks: Clocks, seconds: int) -> None:
    field = TimeField()
    before = int(field.read())
    clocks.real += seconds * 1_000_000_000
    clocks.pass_by(100_000)
    assert int(field.read()) == before + seconds * 1_000_000 + 100
