"""Rates as lines of text: a process, then what it sends most (`>`) and receives most (`<`)."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

import zbus

from ..observe.rates import ChannelRates, Rates, TopicRates
from ..roster.process_info import visible
from .units import age_text, count_text, size_text

__all__ = ["rate_lines"]

_COLUMNS = ("PID", "OUT/S", "BYTES/S", "IN/S", "BYTES/S", "LOST", "UNREAD")
_WIDTHS = (7, 7, 7, 7, 7, 6, 7)
_GAP = "  "
_NAME = "PROCESS"
_LEAST_NAME = 16
_ROWS_SHOWN = 10

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
            count_text(rates.events),
            size_text(rates.bytes),
            count_text(rates.received),
            size_text(rates.received_bytes),
            count_text(rates.lost),
            age_text(rates.unread),
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
    return name, ["", count_text(row.events), size_text(row.bytes), "", "", "", ""]


def _channel(row: ChannelRates) -> Row:
    patterns = row.system if row.kind == "*" else f"{row.system} {row.kind}"
    name = visible(f"< {patterns}")
    facts = [count_text(row.received), size_text(row.bytes), count_text(row.lost), age_text(row.unread)]
    return name, [row.overflow, "", "", *facts]
