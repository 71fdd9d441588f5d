"""`zbus ls`: show who is on the bus."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.text import Text

import zbus

from ..observe.places import is_used, own_roots, used_buses
from ..observe.rates import Rates, rates
from ..runtime.threads import sleep
from .options import bus_options, notice
from .peer_table import lines
from .rate_table import rate_lines
from .standard_streams import check_stdout

__all__ = ["ls"]

_OTHERS_NAMED = 5
_SECONDS = 2.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with counters and origins.")
@click.option(
    "--rates",
    "seconds",
    is_flag=False,
    flag_value=_SECONDS,
    type=click.FloatRange(1.0, 3600.0),
    metavar="[SECONDS]",
    help=f"Look twice, {_SECONDS:g} seconds apart if no number is given, and show what happened in between.",
)
@bus_options
@click.pass_context
def ls(ctx: click.Context, as_json: bool, seconds: float | None, bus: str, directory: str | None) -> None:
    """Show who is on the bus, without joining it.

    Each process is a member, with what it has sent and received so far. If it subscribes, it is also a
    subscriber, with the patterns it listens to. Dead processes stay listed until another process joins.
    Errors and warnings name subscribers by their id. The origin of an event is one of the origins of the
    member that sent it.

    With --rates, each process is shown with the events and bytes per second that it sends and receives, the
    events it lost meanwhile, and how long the oldest unread event has waited; below it the topics it sends to
    (>) and its subscriptions (<), the busiest 10 of each. Bytes received are an estimate.

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
        given = ctx.get_parameter_source("directory") is click.core.ParameterSource.COMMANDLINE
        notice(_nobody(bus, found.path, given=given))
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
    found = {**peer._asdict(), "numbers": _plain(peer.numbers)}
    return found if between is None else {**found, "rates": _plain(between.get(peer.id))}


def _plain(value: Any) -> Any:
    """Return named tuples as dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [*map(_plain, value)] if isinstance(value, tuple) else value


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


def _nobody(bus: str, path: Path, *, given: bool) -> str:
    """Return a message that nobody is on a bus: where it was looked for and why, and where somebody is."""
    root, roots = path.parents[1], [*own_roots()]
    why = "from --dir" if given else next((why for why, other in roots if why and other == root), "")
    said = [f"nobody is on bus {bus} in {path}" + (f" ({why})" if why else "")]
    elsewhere = dict.fromkeys(str(other) for _, other in roots if other != root and is_used(bus, other))
    said += [f"somebody is in {other}: zbus ls --dir {other}" for other in elsewhere]
    if names := [name for name in used_buses(root) if name != bus]:
        more = ", …" if len(names) > _OTHERS_NAMED else ""
        said.append(f"somebody is on {', '.join(names[:_OTHERS_NAMED])}{more}: zbus ls --bus NAME")
    return "; ".join(said)
