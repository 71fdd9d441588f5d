"""Rates as lines of text: a process, then what it sends most (`>`) and receives most (`<`)."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

import zbus

from ..observe.rates import ChannelRates, Rates, TopicRates
from ..roster.process_info import visible

__all__ = ["rate_lines"]

_COLUMNS = ("PID", "OUT/S", "BYTES/S", "IN/S", "BYTES/S", "LOST", "UNREAD")
_WIDTHS = (7, 7, 7, 7, 7, 6, 7)
_GAP = "  "
_NAME = "PROCESS"
_LEAST_NAME = 16
_ROWS_SHOWN = 10
_PREFIXES = "kMGTPEZY"

Row = tuple[str, list[str]]


def rate_lines(
    peers: list[zbus.Peer], rates: dict[str, Rates], width: int | None
) -> Iterator[tuple[str, bool]]:
    """Yield the lines that show `rates` by the ids of members, each with whether it begins a process.

    Args:
        peers: who is on the bus; of those that are no members, or dead, nothing is shown.
        rates: from `rates`; a member without is shown with `-`.
        width: columns of the terminal; `None` if output goes elsewhere, where lines may have any length.
    """
    members = [peer for peer in peers if peer.role == "member" and peer.alive]
    groups = [[*_group(peer, rates.get(peer.id))] for peer in members]
    longest = max((cell_len(name) for rows in groups for name, _ in rows), default=0)
    taken = sum(_WIDTHS) + len(_GAP) * len(_WIDTHS)
    room = max(longest, len(_NAME)) if width is None else max(_LEAST_NAME, width - taken)
    room = min(room, max(longest, len(_NAME)))
    yield from ((line, True) for line in _line((_NAME, [*_COLUMNS]), room))
    for rows in groups:
        for number, row in enumerate(rows):
            yield from ((line, not number) for line in _line(row, room))


def _line(row: Row, room: int) -> Iterator[str]:
    name, facts = row
    first, *more = chop_cells(name, room) or [""]
    cells = [fact.rjust(width) for fact, width in zip(facts, _WIDTHS, strict=True)]
    yield _GAP.join([first + " " * (room - cell_len(first)), *cells]).rstrip()
    yield from more


def _group(peer: zbus.Peer, rates: Rates | None) -> Iterator[Row]:
    """Yield the rows of one process."""
    facts = ["-"] * 6
    if rates is not None:
        facts = [
            _count(rates.events),
            _size(rates.bytes),
            _count(rates.received),
            _size(rates.received_bytes),
            _count(rates.lost),
            _age(rates.unread),
        ]
    yield visible(peer.process), [str(peer.pid or "?"), *facts]
    if rates is not None:
        sending = [_topic(row) for row in rates.by_topic if row.events]
        yield from _shortened(sending, ">")
        yield from _shortened([_channel(row) for row in rates.by_channel], "<")


def _shortened(rows: list[Row], sign: str) -> Iterator[Row]:
    yield from rows[:_ROWS_SHOWN]
    if len(rows) > _ROWS_SHOWN:
        yield f"{sign} and {len(rows) - _ROWS_SHOWN} more", [""] * len(_WIDTHS)


def _topic(row: TopicRates) -> Row:
    name = visible(f"> {row.system} {row.kind}")
    return name, ["", _count(row.events), _size(row.bytes), "", "", "", ""]


def _channel(row: ChannelRates) -> Row:
    patterns = row.system if row.kind == "*" else f"{row.system} {row.kind}"
    name = visible(f"< {patterns}")
    facts = [_count(row.received), _size(row.bytes), _count(row.lost), _age(row.unread)]
    return name, [row.overflow, "", "", *facts]


def _count(value: float) -> str:
    """Return a number of events in at most six characters."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 99_999.5 else _scaled(value, "")


def _size(value: float | None) -> str:
    """Return a number of bytes in at most seven characters."""
    if value is None:
        return "-"
    return f"{value:.0f} B" if value < 999.5 else _scaled(value, "B")


def _scaled(value: float, unit: str) -> str:
    scaled = value
    for prefix in _PREFIXES:
        scaled /= 1000
        if scaled < 999.5:
            digits = f"{scaled:.1f}" if scaled < 99.95 else f"{scaled:.0f}"
            return f"{digits} {prefix}{unit}" if unit else digits + prefix
    return f"{value:.0e}"  # nobody is so fast, but anybody may write so


def _age(seconds: float | None) -> str:
    """Return an age in at most seven characters."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds else "0"
    if seconds < 99_999.5:
        return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
    return f"{seconds / 86_400:.0f} d" if seconds < 8e9 else f"{seconds:.0e}s"
