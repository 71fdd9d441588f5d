"""Peers as lines of text: a table if it fits the terminal, else one fact per line. Ids are never cut."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

import zbus

from ..roster.process_info import visible
from .link_facts import link_facts

__all__ = ["lines"]

_WIDE = ("process", "pid", "user", "language", "role", "overflow", "state", "id")
_NARROW = ("process", "pid", "user", "role", "state", "id")
_PATTERNS, _TOTALS = "patterns", "totals"
_LAST = f"{_PATTERNS}, {_TOTALS}"
# Names are chosen by others, so they are cut. The column of patterns has at least so many characters.
_NAME_LETTERS = 60
_LEAST_PATTERNS = 16
_GAP = "  "

Row = tuple[dict[str, str], list[str]]


def lines(peers: list[zbus.Peer], width: int | None) -> Iterator[tuple[str, zbus.Peer | None]]:
    """Yield the lines that show `peers`, each with its peer, or with `None` for the header.

    Args:
        peers: what to show.
        width: columns of the terminal; `None` if output goes elsewhere, where lines may have any length.
    """
    rows = [_row(peer) for peer in peers]
    for columns, table in ((_WIDE, rows), (_NARROW, [_narrow(row) for row in rows])):
        widths = [max(cell_len(column), *(cell_len(row[column]) for row, _ in table)) for column in columns]
        taken = sum(widths) + len(_GAP) * len(widths)
        longest = max(cell_len(text) for _, patterns in table for text in patterns)
        if width is None or taken + max(len(_LAST), min(longest, _LEAST_PATTERNS)) <= width:
            left = None if width is None else width - taken
            yield _GAP.join([*map(_pad, map(str.upper, columns), widths), _LAST.upper()]), None
            for peer, (row, patterns) in zip(peers, table, strict=True):
                start = _GAP.join(map(_pad, (row[column] for column in columns), widths)) + _GAP
                yield from ((line, peer) for line in _hang(start, patterns, left))
            return
    for peer, (row, patterns) in zip(peers, rows, strict=True):
        yield from ((line, peer) for line in _stack(row, patterns, width or 0))


def _row(peer: zbus.Peer) -> Row:
    row = {
        "process": peer.process[:_NAME_LETTERS],
        "pid": str(peer.pid or "?"),
        "user": peer.user,
        "language": peer.language[:_NAME_LETTERS],
        "role": peer.role,
        "overflow": peer.overflow,
        "state": "alive" if peer.alive else "dead",
        "id": peer.id,
    }
    patterns = [visible(system if kind == "*" else f"{system} {kind}") for system, kind in peer.patterns]
    return {name: visible(text) or "-" for name, text in row.items()}, patterns or [*_totals(peer)] or ["-"]


def _totals(peer: zbus.Peer) -> Iterator[str]:
    if (numbers := peer.numbers) is not None:
        each = {"sent": numbers.events, "received": numbers.received, "lost": peer.counters.get("lost", 0)}
        yield from (f"{name} {count:,}" for name, count in each.items() if count)
        yield from link_facts(numbers.link)


def _narrow(row: Row) -> Row:
    """Leave out what the narrow table has no column for: a subscriber's overflow replaces its role."""
    facts, patterns = row
    return {**facts, "role": facts["role"] if facts["overflow"] == "-" else facts["overflow"]}, patterns


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _hang(start: str, texts: list[str], width: int | None) -> Iterator[str]:
    """Yield `texts` to the right of `start`: in one line, or below each other in a column of `width`."""
    if width is None:
        yield start + ", ".join(texts)
        return
    for text in texts:
        for part in chop_cells(text, max(1, width)) or [text]:  # no parts if it has no width, like an accent
            yield start + part
            start = " " * cell_len(start)


def _stack(row: dict[str, str], patterns: list[str], width: int) -> Iterator[str]:
    indent = max(map(len, (*row, _PATTERNS))) + len(_GAP)
    for name, text in row.items():
        if text != "-":
            yield _pad(name, indent) + text  # never wrapped: an id in two parts is useless
    if patterns != ["-"]:
        label = _TOTALS if row["role"] == "member" else _PATTERNS
        yield from _hang(_pad(label, indent), patterns, width - indent)
    yield ""
