"""What arrives, over a sliding window."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from zbus.cli.arrival_table import BANDWIDTH, RATES, Column, arrival_table
from zbus.cli.units import duration_text
from zbus.event import Gap
from zbus.observe.arrivals import Arrivals, Measured
from zbus.observe.tap import Arrived, Head

ORIGIN = "0123456789abcdef"
NOW = 1_000.0


def head(sent: float | None = NOW, *, system: str = "a", events: int = 1, size: int = 100) -> Head:
    return Head(system, "k", events, size, sent)


def gap(events: int, system: str = "a") -> Gap:
    return Gap(ORIGIN, system, "k", 1, events)


def one(arrivals: Arrivals, now: float) -> Measured:
    [found] = arrivals.measured(now)
    return found


def test_rate_counts_what_was_lost_and_bytes_only_what_came() -> None:
    arrivals = Arrivals(10, 1, NOW)
    arrivals.add(Arrived(NOW, [head(), head(events=4, size=300)], [gap(5)]))
    found = one(arrivals, NOW + 2)
    assert (found.received, found.lost, found.rate, found.seconds) == (5, 5, 5.0, 2.0)
    assert (found.bytes, found.size, found.size_min, found.size_max) == (200.0, 200.0, 100, 300)


def test_jitter_is_of_the_times_at_which_frames_were_sent() -> None:
    arrivals = Arrivals(10, 1, NOW)
    arrivals.add(Arrived(NOW + 9, [head(NOW), head(NOW + 1), head(NOW + 4), head(NOW + 3)], []))
    found = one(arrivals, NOW + 9)
    assert (found.period_min, found.period_max, found.period) == (0.0, 3.0, pytest.approx(4 / 3))
    assert found.period_stdev == pytest.approx(1.247, abs=0.001)


def test_without_times_jitter_is_of_arrivals_and_latency_unknown() -> None:
    arrivals = Arrivals(10, 1, NOW)
    arrivals.add(Arrived(NOW + 1, [head(None)], []))
    arrivals.add(Arrived(NOW + 3, [head(None)], []))
    found = one(arrivals, NOW + 3)
    assert (found.period, found.latency_p50, found.latency_p99, found.latency_max) == (2.0, None, None, None)


def test_percentiles_of_the_latency_are_exact_to_a_hundredth() -> None:
    arrivals = Arrivals(10, 1, NOW)
    for number in range(1, 1001):
        arrivals.add(Arrived(NOW, [head(NOW - number / 1000)], []))
    arrivals.add(Arrived(NOW, [head(NOW + 60)], []))  # from the future: the clock was set
    found = one(arrivals, NOW + 1)
    assert found.latency_p50 == pytest.approx(0.5, rel=0.011)
    assert found.latency_p99 == pytest.approx(0.99, rel=0.011)
    assert found.latency_max == pytest.approx(1.0)


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    arrivals = Arrivals(2, 1, NOW)
    arrivals.add(Arrived(NOW, [head(size=900)], [gap(7)]))
    arrivals.turn(NOW + 1)
    arrivals.add(Arrived(NOW + 1, [head(NOW + 1)], []))
    assert (one(arrivals, NOW + 2).received, one(arrivals, NOW + 2).lost) == (2, 7)
    arrivals.turn(NOW + 2)
    found = one(arrivals, NOW + 3)
    assert (found.received, found.lost, found.size_max, found.seconds) == (1, 0, 100, 2.0)
    arrivals.turn(NOW + 3)
    found = one(arrivals, NOW + 4)
    assert (found.received, found.rate, found.size, found.period, found.latency_p50) == (
        0,
        0.0,
        None,
        None,
        None,
    )


def test_the_busiest_topics_come_first() -> None:
    arrivals = Arrivals(10, 1, NOW)
    arrivals.add(
        Arrived(NOW, [head(system="b"), head(system="a"), head(system="c", events=2)], [gap(9, "d")])
    )
    assert [row.system for row in arrivals.measured(NOW + 1)] == ["d", "c", "a", "b"]


def test_a_bounded_number_of_topics_is_kept() -> None:
    arrivals = Arrivals(1, 1, NOW)
    arrivals.add(Arrived(NOW, [head(system=f"old{number}") for number in range(9_999)], []))
    arrivals.turn(NOW + 1)
    arrivals.add(Arrived(NOW, [head(system="busy"), head(system="new")], []))
    assert [row.system for row in arrivals.measured(NOW + 2)] == ["busy", "new"]


def rows() -> list[Measured]:
    arrivals = Arrivals(10, 1, NOW)
    sent = NOW - 0.00012, NOW - 0.5
    arrivals.add(Arrived(NOW, [head(time, system="orders.eu") for time in sent], []))
    return arrivals.measured(NOW + 1) * 2


@pytest.mark.parametrize("columns", [RATES, BANDWIDTH], ids=["hz", "bw"])
@pytest.mark.parametrize("width", [120, 80, 60, 40, 30])
def test_the_table_fits(columns: tuple[Column, ...], width: int) -> None:
    odd = rows()[0]._replace(system="\x1b[2J日本語" * 20, rate=1e30, bytes=1e30, lost=10**20)
    text = io.StringIO()
    Console(file=text, width=width).print(arrival_table([*rows(), odd], columns, width, 10))
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert max(map(cell_len, lines)) <= width
    assert all(letter.isprintable() for line in lines for letter in line)
    assert "2" in lines[1].split()


def test_the_table_tells_what_it_leaves_out() -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(arrival_table(rows() * 20, RATES, 80, 10))
    assert len(text.getvalue().splitlines()) == 9
    assert "and 33 more" in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (0.00012, "120 µs"),
        (0.00999, "10 ms"),
        (0.0041, "4.1 ms"),
        (0.2, "200 ms"),
        (1.25, "1.2 s"),
    ],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
