"""What arrives as a table: how regularly, or how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from ..observe.arrivals import Measured
from ..roster.process_info import visible
from .units import count_text, duration_text, size_text

__all__ = ["BANDWIDTH", "RATES", "Column", "arrival_table"]


class Column(NamedTuple):
    """One column.

    Attributes:
        title: its heading.
        least: it is shown on terminals of at least so many columns.
        text: what stands in it.
    """

    title: str
    least: int
    text: Callable[[Measured], str]


def _duration(value: float | None) -> str:
    return "-" if value is None else duration_text(value)


RATES = (
    Column("RATE/S", 0, lambda row: count_text(row.rate)),
    Column("MIN", 60, lambda row: _duration(row.period_min)),
    Column("MAX", 60, lambda row: _duration(row.period_max)),
    Column("STDEV", 50, lambda row: _duration(row.period_stdev)),
    Column("P50", 70, lambda row: _duration(row.latency_p50)),
    Column("P99", 0, lambda row: _duration(row.latency_p99)),
    Column("LOST", 0, lambda row: count_text(row.lost)),
)
"""How regularly and how late."""

BANDWIDTH = (
    Column("BYTES/S", 0, lambda row: size_text(row.bytes)),
    Column("RATE/S", 0, lambda row: count_text(row.rate)),
    Column("MEAN", 50, lambda row: size_text(row.size)),
    Column("MIN", 60, lambda row: size_text(row.size_min)),
    Column("MAX", 60, lambda row: size_text(row.size_max)),
    Column("LOST", 0, lambda row: count_text(row.lost)),
)
"""How much."""


def arrival_table(
    rows: Sequence[Measured], columns: Sequence[Column], width: int | None, height: int | None
) -> Table:
    """Return a table with one row a topic.

    Args:
        rows: what to show.
        columns: beside the topic, in this order.
        width: columns of the terminal; `None` if output goes elsewhere, where lines may have any length.
        height: lines of the terminal; `None` to show all rows.
    """
    kept = [column for column in columns if width is None or width >= column.least]
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=width is not None
    )
    table.add_column("TOPIC", no_wrap=True, overflow="ellipsis", ratio=None if width is None else 1)
    for column in kept:
        table.add_column(column.title, justify="right", no_wrap=True)
    shown = len(rows) if height is None else max(1, height - 3)
    for row in rows[:shown]:
        # A `Text`, because rich reads square brackets in a plain string as markup.
        topic = Text(visible(f"{row.system} {row.kind}"))
        table.add_row(topic, *(column.text(row) for column in kept), style="red" if row.lost else "")
    if (left := len(rows) - shown) > 0:
        table.add_row(Text(f"and {left:,} more", style="dim"))
    return table
