"""`zbus ls`: show who is on the bus."""

from __future__ import annotations

import sys

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

import zbus

from ..about import visible
from .options import bus_options, notice

__all__ = ["ls"]

_COLUMNS = ("PROCESS", "PID", "LANGUAGE", "ROLE", "OVERFLOW", "STATE", "PATTERNS")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with the counters of each member.")
@bus_options
def ls(as_json: bool, bus: str, directory: str | None) -> None:
    """Show who is on the bus, without joining it.

    Each process is a member; if it subscribes it is also a subscriber, with the patterns it listens to.
    What is dead stays listed until the next process joins and cleans up.

    \b
    Example:
      zbus ls --bus shop
    """
    found = zbus.peers(bus, dir=directory)
    if not found:
        notice(f"nobody is on bus {bus}")
    if as_json:
        click.echo(orjson.dumps([peer._asdict() for peer in found]).decode())
    elif found and sys.stdout.isatty():
        _draw(found)
    elif found:
        _align([_row(peer) for peer in found])


def _row(peer: zbus.Peer) -> list[str]:
    patterns = ", ".join(system if kind == "*" else f"{system} {kind}" for system, kind in peer.patterns)
    state = "alive" if peer.alive else "dead"
    cells = [peer.process, str(peer.pid), peer.language, peer.role, peer.overflow, state, patterns]
    return [visible(cell) or "-" for cell in cells]


def _draw(found: list[zbus.Peer]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="bold", pad_edge=False)
    for peer in found:
        # Text, since in a plain string rich takes square brackets for its markup.
        table.add_row(*map(Text, _row(peer)), style="" if peer.alive else "red")
    Console().print(table)


def _align(rows: list[list[str]]) -> None:
    lines = [list(_COLUMNS), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
