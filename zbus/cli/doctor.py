"""`zbus doctor`: whether a bus is healthy, check by check."""

from __future__ import annotations

import click
import orjson
from rich.console import Console
from rich.text import Text

from ..observe.checkup import ERROR, LEVELS, OK, WARNING, checkup, reap
from ..roster.process_info import visible
from .options import bus_options, notice, on_the_command_line
from .standard_streams import check_stdout

__all__ = ["doctor"]

_STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red"}
_COLUMNS = (max(map(len, LEVELS)), len("file system"))


@click.command()
@click.option(
    "--fix", is_flag=True, help="Remove what dead processes left; first, so that the checks see it gone."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@bus_options
def doctor(fix: bool, as_json: bool, bus: str, directory: str | None) -> int:
    """Check a bus and its surroundings.

    Each check is ok, a warning or an error.

    It looks at versions, limits, the bus directory and its rights, its file system, programs that remove old
    files there, what dead processes left, files that are none of a bus, stopped processes and losses. Last it
    sends events to itself, on a bus of its own below the same root, and tells how long they take.

    The JSON array has an object for each check, with `check`, `level` (ok, warning or error) and `text`.

    Exit codes: 0 no error, though there may be warnings; 1 an error.

    \b
    Examples:
      zbus doctor --bus shop
      zbus doctor --fix --json
    """
    check_stdout()
    if fix:
        gone = reap(bus, dir=directory)
        notice(
            f"removed what was left of {gone} dead members and subscribers" if gone else "nothing to remove"
        )
    found = []
    console = Console(highlight=False)
    for finding in checkup(bus, dir=directory, given=on_the_command_line("directory")):
        found.append(finding)
        if not as_json:
            level, check = (text.ljust(width) for text, width in zip(finding[1::-1], _COLUMNS, strict=True))
            line = Text(f"{level}  {check}  {visible(finding.text)}")
            line.stylize(_STYLES[finding.level], 0, len(level))
            console.print(line, soft_wrap=True)
    if as_json:
        click.echo(orjson.dumps([finding._asdict() for finding in found]).decode())
    return int(any(finding.level == ERROR for finding in found))
