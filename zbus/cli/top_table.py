"""A snapshot of a bus as two tables, of members and of topics; a narrow terminal gets fewer columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..observe.snapshot import MemberRow, Snapshot, TopicRow
from ..roster.process_info import visible
from .link_facts import link_facts
from .units import age_text, count_text, size_text

__all__ = ["view"]

_PATTERNS_SHOWN = 20
_LATE_SECONDS = 1.0
# Lines that are not rows: the summary, two headers, two notes of what is left out, and a blank line.
_FRAME_LINES = 6
_LEAST_ROWS = 2


class _Column(NamedTuple):
    """One column.

    Attributes:
        title: its heading.
        least: it is shown on terminals of at least so many columns.
        text: what stands in it.
        key: what `--sort` calls it.
        ratio: its share of the room that is left; 0 for one that is as wide as it needs.
    """

    title: str
    least: int
    text: Callable[[Any], Text]
    key: str = ""
    ratio: int = 0


def _plain(text: Callable[[Any], str]) -> Callable[[Any], Text]:
    # A `Text`, because rich reads square brackets in a plain string as markup.
    return lambda row: Text(text(row))


def _or_dash(text: Callable[[float], str], value: float | None) -> str:
    return "-" if value is None else text(value)


def _patterns(row: MemberRow) -> str:
    texts = [system if kind == "*" else f"{system} {kind}" for system, kind, _ in row.patterns]
    more = f", and {len(texts) - _PATTERNS_SHOWN} more" if len(texts) > _PATTERNS_SHOWN else ""
    patterns = visible(", ".join(texts[:_PATTERNS_SHOWN])) + more
    return ", ".join(filter(None, (*link_facts(row.link), patterns)))


def _lost(row: MemberRow) -> Text:
    return Text(count_text(row.lost), style="bold red" if row.losing else "")


def _lag(row: MemberRow | TopicRow) -> Text:
    late = row.lag is not None and row.lag > _LATE_SECONDS
    return Text(_or_dash(age_text, row.lag), style="yellow" if late else "")


_MEMBERS = (
    _Column("PROCESS", 0, lambda row: Text(visible(row.process)), "name", ratio=3),
    _Column("PID", 60, _plain(lambda row: str(row.pid or "?"))),
    _Column("OUT/S", 0, _plain(lambda row: _or_dash(count_text, row.out)), "out"),
    _Column("BYTES/S", 60, _plain(lambda row: _or_dash(size_text, row.out_bytes)), "bytes"),
    _Column("IN/S", 0, _plain(lambda row: _or_dash(count_text, row.received)), "in"),
    _Column("BYTES/S", 60, _plain(lambda row: _or_dash(size_text, row.received_bytes)), "bytes"),
    _Column("LOST", 0, _lost, "lost"),
    _Column("LAG", 0, _lag, "lag"),
    _Column("PATTERNS", 78, _plain(_patterns), ratio=2),
)
_TOPICS = (
    _Column("TOPIC", 0, _plain(lambda row: visible(f"{row.system} {row.kind}")), "name", ratio=3),
    _Column("OUT/S", 0, _plain(lambda row: _or_dash(count_text, row.out)), "out"),
    _Column("BYTES/S", 50, _plain(lambda row: _or_dash(size_text, row.out_bytes)), "bytes"),
    _Column("SIZE", 60, _plain(lambda row: _or_dash(size_text, row.size))),
    _Column("PUB", 0, _plain(lambda row: count_text(len(row.publishers)))),
    _Column("SUB", 0, _plain(lambda row: count_text(len(row.subscribers)))),
    _Column("LAG", 50, _lag, "lag"),
)


def view(bus: Snapshot, whole: Snapshot, sort: str, width: int | None, height: int | None) -> Group:
    """Return what to draw.

    Args:
        bus: the rows to show, in order.
        whole: all rows, for the summary.
        sort: what they are sorted by.
        width: columns of the terminal; `None` if output goes elsewhere, where lines may have any length.
        height: lines of the terminal; `None` to show all rows.
    """
    members, topics = _rows_shown(len(bus.members), len(bus.topics), height)
    parts: list[Text | Table] = [_summary(whole, sort, width)]
    parts += _table(_MEMBERS, bus.members, members, sort, width)
    if bus.topics:
        parts += [Text(""), *_table(_TOPICS, bus.topics, topics, sort, width)]
    return Group(*parts)


def _rows_shown(members: int, topics: int, height: int | None) -> tuple[int, int]:
    """Return how many rows of each table fit; what one does not need, the other gets."""
    if height is None:
        return members, topics
    room = max(2 * _LEAST_ROWS, height - _FRAME_LINES)
    for_members = max(room - topics, room // 2)
    for_members = min(members, for_members)
    return for_members, room - for_members


def _summary(bus: Snapshot, sort: str, width: int | None) -> Text:
    out, size = sum(row.out or 0 for row in bus.members), sum(row.out_bytes or 0 for row in bus.members)
    facts = [
        datetime.fromtimestamp(bus.time).strftime("%H:%M:%S"),
        f"{bus.bus}: {_many(bus.members, 'member')}",
        f"{count_text(out)} events/s",
        f"{size_text(size)}/s",
        _many(bus.topics, "topic"),
        f"{count_text(sum(row.lost for row in bus.members))} lost",
        f"by {sort}",
    ]
    line = Text(visible("  ".join(facts)), no_wrap=True, overflow="ellipsis")
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line


def _many(rows: Sequence[object], what: str) -> str:
    return f"{len(rows):,} {what}{'' if len(rows) == 1 else 's'}"


def _table(
    columns: Iterable[_Column],
    rows: Sequence[MemberRow | TopicRow],
    shown: int,
    sort: str,
    width: int | None,
) -> list[Text | Table]:
    kept = [column for column in columns if width is None or width >= column.least]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    for column in kept:
        table.add_column(
            Text(column.title, style="reverse" if column.key == sort else ""),
            justify="left" if column.ratio else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=column.ratio if column.ratio and width is not None else None,
        )
    # One row of the table has all lines of each column: three times as fast as a row for each.
    table.add_row(*(_lines(column, rows[:shown]) for column in kept))
    if width is not None:
        table.expand = True
    left = len(rows) - shown
    return [table, Text(f"and {left:,} more", style="dim")] if left > 0 else [table]


def _lines(column: _Column, rows: Iterable[MemberRow | TopicRow]) -> Text:
    """Return the cells of a column, one below the other."""
    cells = []
    for row in rows:
        cells.append(cell := column.text(row))
        if isinstance(row, MemberRow) and not row.alive:
            cell.style = f"red {cell.style}".rstrip()
    return Text("\n").join(cells)
