"""`zbus top`: members and topics with their rates, live."""

from __future__ import annotations

import io
import sys
import time

import click
import orjson
from rich.console import Console
from rich.live import Live

from ..observe.arrange import SORT_KEYS, filtered, ordered
from ..observe.snapshot import Look, Snapshot, look, snapshot
from ..runtime.threads import sleep
from .keys import keys
from .nobody import nobody
from .options import bus_options, notice, seconds_option
from .plain import plain
from .standard_streams import check_stdout
from .top_table import view

__all__ = ["top"]

# Members publish once a second. Over less than this, the last two publications of each tell more.
_LEAST_BETWEEN = 2.0
_QUIT = "q"
_NEXT_SORT = "s"
_ANY_WIDTH = 10_000


@click.command()
@click.argument("filter", metavar="[FILTER]", default="", required=False)
@click.option(
    "--sort",
    type=click.Choice(SORT_KEYS),
    default="rate",
    show_default=True,
    help="What the rows are sorted by: events out and in, or one of the columns.",
)
@seconds_option(
    "--interval", 1.0, "Seconds between two looks. From 2 on, rates are of the time between them."
)
@click.option("--once", is_flag=True, help="Look once, show all rows, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each look.")
@bus_options
def top(
    filter: str,
    sort: str,
    interval: float,
    once: bool,
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Show members and topics with their rates, live.

    It joins nothing: it reads what each process publishes once a second in the bus directory, and no process
    notices.

    Members have the events and bytes per second that they send (OUT/S) and receive (IN/S), the events they
    have lost so far, how long their oldest unread event has waited (LAG), and the patterns they listen to.
    Topics have what is sent to them, the mean size of an event, how many members send to them (PUB) and
    select them (SUB), and the lag of these. A dash means that nobody tells. Received bytes are an estimate.
    A link to other machines shows what it has carried before its patterns. Narrow terminals get fewer
    columns.

    FILTER is a part of a name (process, user, system or kind), a process id, a member's id, or a pattern of
    systems such as 'orders.**'. On a terminal, q ends the command and s sorts by the next column. Elsewhere
    it prints a table at each interval.

    Rates are of the last second: between the last two publications of each process. So --once need not wait.
    A process that has published only once has no rates yet.

    The JSON object has `bus`, `path` (the bus directory), `time`, `members` and `topics`. A member has `id`,
    `process`, `pid`, `user`, `language`, `alive`, `out`, `out_bytes`, `received`, `received_bytes`, `lost`
    (so far), `losing` (a second), `lag`, `sent_total`, `received_total`, `patterns` with `system`, `kind` and
    `overflow`, and `link`, which is null or has the fields that zbus link prints. A topic has `system`,
    `kind`, `out`, `out_bytes`, `size`, `sent_total`, `publishers` and `subscribers` (ids of members),
    `publisher_rates` (events a second of each publisher), and `lag` and `lost` of the channels that select
    it. Rates are per second, ages in seconds, and what is unknown is null.

    Exit codes: 0 for q or after --once, 1 nobody was on the bus, 130 for Ctrl-C.

    \b
    Examples:
      zbus top
      zbus top --sort lag 'orders.**'
      zbus top --once --json
    """
    check_stdout()
    looks = _Looks(bus, directory, interval)
    if not looks.now.peers:
        notice(nobody(bus, looks.now.peers.path))
        return 1
    if as_json or once or not sys.stdout.isatty() or Console().is_dumb_terminal:
        _print(looks, filter, sort, once=once, as_json=as_json)
    else:
        _draw(looks, filter, sort)
    return 0


class _Looks:
    """Looks at a bus, one after the other."""

    def __init__(self, bus: str, directory: str | None, interval: float) -> None:
        self.interval = interval
        self._where = bus, directory
        self._before: Look | None = None
        self.now = look(*self._where)

    def again(self) -> None:
        """Look once more."""
        self._before = self.now if self.interval >= _LEAST_BETWEEN else None
        self.now = look(*self._where)

    def rows(self, filter: str, sort: str) -> tuple[Snapshot, Snapshot]:
        """Return the rows to show, and all rows."""
        whole = snapshot(self.now, self._before)
        return ordered(filtered(whole, filter) if filter else whole, sort), whole


def _print(looks: _Looks, filter: str, sort: str, *, once: bool, as_json: bool) -> None:
    """Print each look, as JSON or as a table."""
    while True:
        shown, whole = looks.rows(filter, sort)
        if as_json:
            click.echo(orjson.dumps(plain(shown)).decode())
        else:
            _print_table(shown, whole, sort)
        if once:
            return
        sys.stdout.flush()
        sleep(looks.interval)
        looks.again()


def _print_table(shown: Snapshot, whole: Snapshot, sort: str) -> None:
    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(view(shown, whole, sort, console.width, None))
        return
    text = io.StringIO()
    Console(file=text, width=_ANY_WIDTH, highlight=False, color_system=None).print(
        view(shown, whole, sort, None, None)
    )
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())
    click.echo()


def _draw(looks: _Looks, filter: str, sort: str) -> None:
    """Draw each look over the one before, until the key that ends it."""
    console = Console(highlight=False)
    with keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            shown, whole = looks.rows(filter, sort)
            live.update(view(shown, whole, sort, console.width, console.height), refresh=True)
            due = time.monotonic() + looks.interval
            pressed = key(looks.interval)
            if pressed == _QUIT:
                return
            if pressed == _NEXT_SORT:
                sort = SORT_KEYS[(SORT_KEYS.index(sort) + 1) % len(SORT_KEYS)]
            elif time.monotonic() >= due:
                looks.again()
