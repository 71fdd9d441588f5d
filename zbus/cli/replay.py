"""`zbus replay`: send the events of a recording again."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .keys import keys
from .options import bus_options, notice, open_bus, recordings
from .standard_streams import check_stdout

if TYPE_CHECKING:
    from ..recording.reader import Reading
    from ..recording.replay import Pace, Replay

__all__ = ["replay"]

_PROCESS = "zbus-replay"
_EXIT_DAMAGED = 3


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("pattern", default="*")
@click.argument("kind", required=False)
@click.option(
    "--speed",
    metavar="FACTOR",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How much faster than they were sent, for example 2 or 0.1.",
)
@click.option("--as-fast-as-possible", "fast", is_flag=True, help="Send without pauses.")
@click.option("--loop", is_flag=True, help="Begin again at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end: what was sent.")
@bus_options
def replay(
    file: str,
    pattern: str,
    kind: str | None,
    speed: float,
    fast: bool,
    loop: bool,
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Send the events of a recording again.

    They go in the same order and as far apart as they were sent. PATTERN and KIND select events as for
    `zbus sub`. The space bar pauses and goes on, and so does SIGUSR1. The process is called zbus-replay in
    `zbus ls`, and the origin of each event that it sends begins with ec40ed, so everybody can tell that it is
    replayed. Events that the recording lacks are not sent, and subscribers do not miss them.

    The JSON object has `events`, `lost` (those that the recording lacks), `refused` and `damage` (a text,
    empty if the file is whole).

    Exit codes: 0 all was sent, 1 it could not be sent, 3 the recording is damaged, and was sent up to there.

    \b
    Examples:
      zbus replay today.mcap
      zbus replay today.mcap 'orders.**' --speed 10 --bus test
    """
    if as_json:
        check_stdout()
    with recordings(file):
        from ..recording.replay import Pace, Replay, mark_replayed

        pace = Pace(None if fast else speed)
        sys.argv[0] = _PROCESS
        mark_replayed()
        signal.signal(signal.SIGUSR1, lambda *_: pace.toggle())
        with open_bus(bus, directory) as opened, _Display(file) as display, keys() as pressed:

            def look(reading: Reading) -> None:
                if " " in pressed(0.0):
                    pace.toggle()
                display.show(reading, sent, pace)

            sent = Replay(opened, pace, pattern, kind, look)
            damage = _run(file, sent, loop)
    if as_json:
        counted = {"events": sent.events, "lost": sent.lost, "refused": sent.refused, "damage": damage}
        click.echo(orjson.dumps(counted).decode())
    return _tell(file, sent, damage)


def _run(file: str, sent: Replay, loop: bool) -> str:
    """Send everything, once or again and again; return what is wrong with the file."""
    from ..recording.reader import Reading

    while True:
        before = sent.events
        with Reading(file) as reading:
            sent.run(reading)
        if reading.damage:
            return f"{reading.damage}; read {reading.read:,} of {reading.size:,} bytes"
        if not loop or sent.events == before:
            return "" if reading.recording else "it is not a recording of zbus"


def _tell(file: str, sent: Replay, damage: str) -> int:
    lost = f"; {sent.lost:,} that the recording lacks were not" if sent.lost else ""
    notice(f"sent {sent.events:,} events{lost}")
    if sent.refused:
        notice(f"{sent.refused:,} events were refused: their system is reserved, or they are too large")
    if damage:
        notice(f"{file} is damaged: {damage}")
        return _EXIT_DAMAGED
    return 1 if sent.refused else 0


class _Display:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, file: str) -> None:
        self._progress: Progress | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[said]}")
            self._progress = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
            self._task = self._progress.add_task(os.path.basename(file), total=None, said="", markup=False)

    def __enter__(self) -> _Display:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, reading: Reading, sent: Replay, pace: Pace) -> None:
        """Show how far it is."""
        if self._progress:
            said = f"{sent.events:,} events" + ("  paused" if pace.paused else "")
            self._progress.update(self._task, total=reading.size, completed=reading.read, said=said)
