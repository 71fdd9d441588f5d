"""`zbus graph`: who sends what to whom, as a picture."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from ..observe.arrange import filtered
from ..observe.drawing import dot, mermaid
from ..observe.graph import graph_of
from ..observe.graph_svg import svg
from ..observe.snapshot import look, snapshot
from .nobody import nobody
from .options import bus_options, notice
from .plain import plain
from .standard_streams import check_stdout

__all__ = ["graph"]

_FORMATS = {"mermaid": mermaid, "dot": dot, "svg": svg}
_SUFFIXES = {".dot": "dot", ".gv": "dot", ".svg": "svg"}


@click.command()
@click.argument("filter", metavar="[FILTER]", default="", required=False)
@click.option(
    "--format",
    type=click.Choice([*_FORMATS]),
    help="Default: what the name of FILE ends with (.svg, .dot, .gv), else mermaid.",
)
@click.option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print the graph as one JSON object.")
@bus_options
def graph(
    filter: str, format: str | None, output: str | None, as_json: bool, bus: str, directory: str | None
) -> int:
    """Draw who sends what to whom, as Mermaid, dot or SVG.

    It joins nothing: it reads what each process publishes once a second in the bus directory, and no process
    notices. GitHub, GitLab and many editors draw Mermaid; Graphviz draws dot; any browser shows SVG.

    Members have arrows to the topics that they have sent to, with events per second, and topics have arrows
    to the members that select them. Topics that nobody receives, patterns that nobody has sent anything for,
    and dead members are dashed. Processes of one program that send and receive the same are one node. Of
    more than 40 topics, those whose systems begin alike are one node, such as orders.**: a FILTER shows less
    of the bus, in more detail. It is what `zbus top` takes: a part of a name, or a pattern of systems.

    The JSON object has `bus`, `path`, `time`, the nodes `members` and `topics`, and the edges `sends` (from
    members to topics) and `receives` (from topics to members). A member has `id` (in this graph), `process`,
    `pids`, `members` (ids) and `alive`. A topic has `id`, `system`, `kind`, `topics` (how many), `rate` and
    `sent_total`. An edge has `source`, `target` and `rate`. Rates are per second, and null if unknown.

    Exit codes: 0 drawn, 1 nobody was on the bus, or nothing on it is what FILTER says.

    \b
    Examples:
      zbus graph
      zbus graph 'orders.**' --output orders.svg
      zbus graph --format dot | dot -Tpdf -o bus.pdf
    """
    if as_json and format:
        raise click.UsageError("--json is a format of its own: leave out --format")
    if output is None:
        check_stdout()
    whole = snapshot(look(bus, directory))
    if not whole.members:
        notice(nobody(bus, Path(whole.path)))
        return 1
    shown = filtered(whole, filter) if filter else whole
    if not shown.members and not shown.topics:
        notice(f"nothing on bus {bus} is named {filter}")
        return 1
    found = graph_of(shown, whole)
    if as_json:
        text = orjson.dumps(plain(found)).decode() + "\n"
    else:
        text = _FORMATS[format or _SUFFIXES.get(Path(output or "").suffix.lower(), "mermaid")](found)
    _write(text, output)
    return 0


def _write(text: str, output: str | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror or error}") from error
