"""What `zbus hz` and `zbus bw` share: subscribing, and showing what arrives at each interval."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.live import Live

import zbus

from ..observe.arrivals import Arrivals, Measured
from ..observe.tap import Tap, TapBus
from .arrival_table import Column, arrival_table
from .nobody import nobody
from .options import bus_options, notice, seconds_option
from .plain import plain
from .signals import ignore_signals
from .standard_streams import check_stdout

__all__ = ["measure", "measuring_options"]

_ANY_WIDTH = 10_000
_Function = TypeVar("_Function", bound=Callable[..., Any])


def measuring_options(command: _Function) -> _Function:
    """Add the arguments and options of both commands."""
    decorators = (
        click.argument("pattern"),
        click.argument("kind", required=False),
        seconds_option("--window", 10.0, "How many seconds to look back."),
        seconds_option("--interval", 1.0, "How often to show it, in seconds."),
        click.option("--once", is_flag=True, help="Show one whole window, and end: 1 if nothing arrived."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object each time."),
        bus_options,
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def measure(
    columns: Sequence[Column],
    pattern: str,
    kind: str | None,
    window: float,
    interval: float,
    once: bool,
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Measure what arrives until a signal comes, or once; return the exit code."""
    check_stdout()
    path = zbus.peers(bus, dir=directory).path
    if not path.exists():  # subscribing would make a directory of a name that was mistyped
        notice(nobody(bus, path))
        return 1
    with _tap(bus, directory, pattern, kind) as tap, _shown(columns, as_json) as show:
        notice(f"subscribed to {pattern}, {kind or 'every kind'}, on bus {bus}")
        step = window if once else min(interval, window)
        begun = time.monotonic()
        arrivals = Arrivals(window, step, begun)
        due = begun + step
        while True:
            _count(tap, arrivals, due)
            now = time.monotonic()
            rows = arrivals.measured(now)
            if rows or not once:
                show(rows)
            if once:
                if not rows:
                    notice(f"no event of {pattern}, {kind or 'every kind'}, arrived within {window:g} s")
                return 0 if rows else 1
            arrivals.turn(now)
            due = max(due + step, now)


def _count(tap: Tap, arrivals: Arrivals, due: float) -> None:
    """Count what arrives until `due`."""
    while (left := due - time.monotonic()) > 0:
        arrived = tap.take(left)
        if arrived is None:
            return
        arrivals.add(arrived)


@contextmanager
def _tap(bus: str, directory: str | None, pattern: str, kind: str | None) -> Iterator[Tap]:
    """Open a bus and tap it; a second signal does not interrupt the closing."""
    opened = TapBus(bus, dir=directory)
    try:
        with opened.tap(pattern, kind) as tap:
            yield tap
    finally:
        ignore_signals()
        opened.close()


@contextmanager
def _shown(columns: Sequence[Column], as_json: bool) -> Iterator[Callable[[list[Measured]], None]]:
    """Yield what shows rows: as a line of JSON, in place on a terminal, or as one table after the other."""
    console = Console(highlight=False)
    if as_json:
        yield _print_json
    elif not sys.stdout.isatty() or console.is_dumb_terminal:
        yield lambda rows: _print_table(rows, columns)
    else:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda rows: live.update(
                arrival_table(rows, columns, console.width, console.height), refresh=True
            )


def _print_json(rows: list[Measured]) -> None:
    click.echo(orjson.dumps({"time": time.time(), "topics": [plain(row) for row in rows]}).decode())
    sys.stdout.flush()


def _print_table(rows: list[Measured], columns: Sequence[Column]) -> None:
    text = io.StringIO()
    console = Console(file=text, width=_ANY_WIDTH, highlight=False, color_system=None)
    console.print(arrival_table(rows, columns, None, None))
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())
    click.echo()
    sys.stdout.flush()
