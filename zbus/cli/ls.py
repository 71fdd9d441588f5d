"""`zbus ls`: show who is on the bus."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.text import Text

import zbus

from .options import bus_options, notice
from .peer_table import lines
from .standard_streams import check_stdout

__all__ = ["ls"]

_OTHERS_NAMED = 5


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with counters and origins.")
@bus_options
@click.pass_context
def ls(ctx: click.Context, as_json: bool, bus: str, directory: str | None) -> None:
    """Show who is on the bus, without joining it.

    Each process is a member. If it subscribes, it is also a subscriber, with the patterns it listens to. Dead
    processes stay listed until another process joins. Errors and warnings name subscribers by their id. The
    origin of an event is one of the origins of the member that sent it.

    \b
    Example:
      zbus ls --bus shop
    """
    check_stdout()
    found = zbus.peers(bus, dir=directory)
    if not found:
        given = ctx.get_parameter_source("directory") is click.core.ParameterSource.COMMANDLINE
        notice(_nobody(bus, found.path, given=given))
    if as_json:
        click.echo(orjson.dumps([peer._asdict() for peer in found]).decode())
    elif found and sys.stdout.isatty():
        _draw(found)
    elif found:
        for line, _ in lines(found, None):
            click.echo(line.rstrip())


def _draw(found: list[zbus.Peer]) -> None:
    console = Console(highlight=False)
    for line, peer in lines(found, console.width):
        style = "bold" if peer is None else "" if peer.alive else "red"
        # A `Text`, because rich reads square brackets in a plain string as markup.
        console.print(Text(line, style=style), soft_wrap=True)


def _nobody(bus: str, path: Path, *, given: bool) -> str:
    """Return a message that nobody is on a bus: where it was looked for and why, and where somebody is."""
    root, roots = path.parents[1], [*_roots()]
    why = "from --dir" if given else next((why for why, other in roots if why and other == root), "")
    said = [f"nobody is on bus {bus} in {path}" + (f" ({why})" if why else "")]
    elsewhere = dict.fromkeys(str(other) for _, other in roots if other != root and _is_used(bus, other))
    said += [f"somebody is in {other}: zbus ls --dir {other}" for other in elsewhere]
    with suppress(OSError):
        names = sorted(name for name in os.listdir(path.parent) if name != bus and _is_used(name, root))
        if names:
            more = ", …" if len(names) > _OTHERS_NAMED else ""
            said.append(f"somebody is on {', '.join(names[:_OTHERS_NAMED])}{more}: zbus ls --bus NAME")
    return "; ".join(said)


def _roots() -> Iterator[tuple[str, Path]]:
    """Yield the roots that processes of this user may use, each with what chose it, if this process knows."""
    user, env = os.geteuid(), os.environ
    for name, below in (("ZBUS_DIR", ""), ("XDG_RUNTIME_DIR", "zbus"), ("TMPDIR", f"zbus-{user}")):
        if value := env.get(name):
            yield f"from ${name}", Path(os.path.abspath(value), below)
    yield "by default", Path(f"/tmp/zbus-{user}")
    yield "", Path(f"/run/user/{user}/zbus")


def _is_used(bus: str, root: Path) -> bool:
    with suppress(zbus.Error):
        return any(peer.alive for peer in zbus.peers(bus, dir=root))
    return False
