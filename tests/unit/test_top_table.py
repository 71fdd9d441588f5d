"""A snapshot as tables, on terminals of any size."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from zbus.cli.top_table import view
from zbus.observe.snapshot import MemberRow, Snapshot, TopicRow
from zbus.roster.process_info import Pattern

LONG = "x" * 300
MEMBER = MemberRow(
    id="0" * 16,
    process="shop.py",
    pid=4711,
    user="me",
    language="python",
    alive=True,
    out=123_456.7,
    out_bytes=999_499.0,
    received=99_999.0,
    received_bytes=None,
    lost=12,
    losing=0.5,
    lag=86_399.0,
    sent_total=5,
    received_total=7,
    patterns=(Pattern("orders.**", "*", "drop"), Pattern("[red]", "order.*", "block")),
)
QUIET = MEMBER._replace(process=LONG, out=None, out_bytes=None, received=None, losing=None, lag=None)
ODD = MEMBER._replace(
    process="\x1b[2J日本語" * 9, pid=0, patterns=(Pattern("\x07", "\n", ""),) * 30, alive=False
)
TOPIC = TopicRow("orders.eu", "order.created", 1_204.0, 104_000.0, 86.0, 9, ("a", "b"), ("c",), 0.25, 3)
ODD_TOPIC = TopicRow("日本語" * 40, "\x1b]0;", None, None, None, 0, (), (), None, 0)
BUS = Snapshot("shop", "/run/zbus/v1/shop", 1_700_000_000.0, (MEMBER, QUIET, ODD), (TOPIC, ODD_TOPIC))


def drawn(bus: Snapshot, width: int | None, height: int | None = None, sort: str = "rate") -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width or 10_000, height=height, force_terminal=width is not None)
    console.print(view(bus, bus, sort, width, height))
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    return [line.rstrip() for line in bare.splitlines()]


@pytest.mark.parametrize("width", [None, 200, 120, 80, 79, 60, 59, 40, 30])
def test_it_fits(width: int | None) -> None:
    lines = drawn(BUS, width)
    assert all(letter.isprintable() for line in lines for letter in line)
    if width:
        assert max(map(cell_len, lines)) <= width
    assert len(lines) == 9


@pytest.mark.parametrize("width", [80, 40])
def test_numbers_are_whole_on_a_narrow_terminal(width: int) -> None:
    lines = drawn(BUS, width)
    shop = next(line for line in lines if line.startswith("shop.py")).split()
    whole = {"123k", "99,999", "12", "86399 s"} | ({"4711", "999 kB"} if width == 80 else set())
    assert all(text in " ".join(shop) for text in whole)
    orders = next(line for line in lines if line.startswith("orders.eu order")).split()
    assert {"1,204", "2", "1"} <= {*orders}
    if width == 80:
        assert "104 kB" in " ".join(orders)
        assert "86 B" in " ".join(orders)


def test_a_wide_one_has_patterns_and_names_whole() -> None:
    text = "\n".join(drawn(BUS, None))
    assert "orders.**, [red] order.*" in text
    assert LONG in text
    assert "and 10 more" in text


@pytest.mark.parametrize("height", [1, 10, 24, 50])
def test_rows_are_left_out_that_do_not_fit_and_their_number_is_told(height: int) -> None:
    many = BUS._replace(
        members=tuple(MEMBER._replace(process=f"m{number}") for number in range(30)),
        topics=tuple(TOPIC._replace(kind=f"k{number}") for number in range(100)),
    )
    lines = drawn(many, 80, height)
    assert len(lines) <= max(height, 10)
    members, topics = (sum(line.startswith(start) for line in lines) for start in ("m", "orders.eu"))
    assert f"and {30 - members} more" in lines
    assert f"and {100 - topics} more" in lines


def test_what_one_table_does_not_need_the_other_gets() -> None:
    many = BUS._replace(topics=tuple(TOPIC._replace(kind=f"k{number}") for number in range(100)))
    lines = drawn(many, 80, 30)
    assert sum(line.startswith("orders.eu") for line in lines) == 30 - 6 - 3


def test_what_is_being_lost_who_is_dead_and_the_order_stand_out() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system="standard")
    console.print(view(BUS, BUS, "lost", 80, None))
    assert "\x1b[1;31m" in text.getvalue()
    assert "\x1b[31m" in text.getvalue()
    assert "\x1b[1;7mLOST" in text.getvalue()
