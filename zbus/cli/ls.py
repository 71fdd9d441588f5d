"""`zbus ls`: show who is on the bus."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import orjson
from rich.console import Console
from rich.text import Text

import zbus

from ..observe.rates import Rates, rates
from ..runtime.threads import sleep
from .nobody import nobody
from .options import bus_options, notice
from .peer_table import lines
from .plain import plain
from .rate_table import rate_lines
from .standard_streams import check_stdout

__all__ = ["ls"]

_SECONDS = 2.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with counters and origins.")
@click.option(
    "--rates",
    "seconds",
    is_flag=False,
    flag_value=_SECONDS,
    type=click.FloatRange(1.0, 3600.0),
    metavar="[S]",
    help=f"Look twice, {_SECONDS:g} seconds apart if no number is given, and show what happened in between.",
)
@bus_options
def ls(as_json: bool, seconds: float | None, bus: str, directory: str | None) -> None:
    """Show who is on the bus, without joining it.

    Each process is a member, with what it has sent and received so far. If it subscribes, it is also a
    subscriber, with the patterns it listens to. Dead processes stay listed until another process joins.
    Errors and warnings name subscribers by their id. The origin of an event is one of the origins of the
    member that sent it. A link to other machines also shows where it is connected and what it has carried.

    With --rates, each process is shown with the events and bytes per second that it sends and receives, the
    events it lost meanwhile, and how long the oldest unread event has waited; below it the topics it sends to
    (>) and its subscriptions (<), the busiest 10 of each. Bytes received are an estimate.

    The JSON array has an object for each row, with `process`, `pid`, `language`, `role`, `overflow`,
    `patterns`, `alive`, `counters`, `id`, `user`, `origins`, `member` and `numbers`, which are the fields of
    zbus.Peer in the Python reference. With --rates each also has `rates`: `seconds`, `events`, `bytes`,
    `received`, `received_bytes`, `lost`, `unread`, `by_topic` and `by_channel`.

    Exit codes: 0, also if nobody is on the bus; 1 it cannot be looked at.

    \b
    Examples:
      zbus ls --bus shop
      zbus ls --rates 10
    """
    check_stdout()
    found = zbus.peers(bus, dir=directory)
    between: dict[str, Rates] | None = None
    if seconds is not None and found:
        first, looked = found, time.time()
        sleep(seconds)
        found = zbus.peers(bus, dir=directory)
        between = rates(first, found, looked)
    if not found:
        notice(nobody(bus, found.path))
    if as_json:
        click.echo(orjson.dumps([_as_dict(peer, between) for peer in found]).decode())
    elif between is not None:
        _draw_rates(found, between)
    elif found and sys.stdout.isatty():
        _draw(found)
    elif found:
        for line, _ in lines(found, None):
            click.echo(line.rstrip())


def _as_dict(peer: zbus.Peer, between: dict[str, Rates] | None) -> dict[str, Any]:
    found = {**peer._asdict(), "numbers": plain(peer.numbers)}
    return found if between is None else {**found, "rates": plain(between.get(peer.id))}


def _draw_rates(found: list[zbus.Peer], between: dict[str, Rates]) -> None:
    if not sys.stdout.isatty():
        for line, _ in rate_lines(found, between, None):
            click.echo(line)
        return
    console = Console(highlight=False)
    for line, bold in rate_lines(found, between, console.width):
        console.print(Text(line, style="bold" if bold else ""), soft_wrap=True)


def _draw(found: list[zbus.Peer]) -> None:
    console = Console(highlight=False)
    for line, peer in lines(found, console.width):
        style = "bold" if peer is None else "" if peer.alive else "red"
        # A `Text`, because rich reads square brackets in a plain string as markup.
        console.print(Text(line, style=style), soft_wrap=True)
