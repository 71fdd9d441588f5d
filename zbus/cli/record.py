"""`zbus record`: write the events of a bus to an MCAP file, and check such a file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click
import orjson

from ..roster.process_info import visible
from .amounts import DURATION, SPLIT
from .options import bus_options, notice, recordings
from .signals import on_signals
from .standard_streams import check_stdout
from .units import size_text

if TYPE_CHECKING:
    from ..recording.session import Request, Session
    from ..recording.sinks import Written
    from ..recording.verify import Loss, Report

__all__ = ["record"]

_EXIT_CODES = {"complete": 0, "lossy": 1, "damaged": 3}
_LOSSES_SHOWN = 20


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("pattern", default="*")
@click.argument("kind", required=False)
@click.option("--verify", "check", is_flag=True, help="Check FILE instead: is it complete, lossy or damaged?")
@click.option(
    "--split",
    metavar="LIMIT",
    type=SPLIT,
    help="Begin the next file after this many bytes (500MB, 2GiB) or this long (10m, 1h).",
)
@click.option(
    "--last",
    metavar="DURATION",
    type=DURATION,
    help="Keep only the last 30s or 5m, in memory, and write them on SIGUSR1 and at the end.",
)
@click.option(
    "--compression",
    type=click.Choice(("zstd", "lz4", "none")),
    default="zstd",
    show_default=True,
    help="How to compress the events.",
)
@click.option(
    "--overflow",
    type=click.Choice(("block", "drop")),
    default="block",
    show_default=True,
    help="When the recorder cannot keep up, make publishers wait, or lose events and record which.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end: what was recorded, or found."
)
@bus_options
def record(
    file: str,
    pattern: str,
    kind: str | None,
    check: bool,
    split: tuple[int, float] | None,
    last: float | None,
    compression: str,
    overflow: Literal["block", "drop"],
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Record events to an MCAP file, until Ctrl-C.

    FILE must not exist yet. Foxglove and the mcap tools open it. It has a channel for each topic,
    system/kind, whose messages are JSON objects with system, kind, path, data, origin and seq; if the data is
    bytes, base64 stands instead of data. The channel zbus/lost tells of lost events where they are missing,
    and the metadata sums them up. Who was on the bus at the beginning and at the end is attached.

    An event is in the file within a second, so a recorder that is killed loses that second and no more. When
    the disk is full, or the file was removed, the recorder ends and says how many events it could not write;
    so does the end of the file. PATTERN and KIND select events as for `zbus sub`. With --split or --last,
    FILE.mcap stands for FILE-0001.mcap, FILE-0002.mcap and so on.

    The JSON object has `files`, `size`, `events`, `lost`, `unwritten` and `topics`. That of --verify has
    `verdict` (complete, lossy or damaged), `events`, `topics`, `begin`, `end`, `lost`, `losses`, `malformed`,
    `unwritten`, `damage`, `readable` (up to which byte), `size` and `recording`. A loss has `origin`,
    `system`, `kind`, `events`, `gaps`, `first`, `last` and `after`.

    Exit codes: 0 ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 1 the file could not be written. With
    --verify: 0 complete, 1 lossy, 3 damaged.

    \b
    Examples:
      zbus record today.mcap
      zbus record orders.mcap 'orders.**' --split 1h
      zbus record --verify today.mcap
    """
    if as_json:
        check_stdout()
    if split and last:
        raise click.UsageError("--split and --last exclude each other")
    if file == "-":
        raise click.UsageError("'-' would be a file of that name: name a file, or /dev/stdout for a pipe")
    with recordings(file):
        if check:
            if not os.path.exists(file):
                raise click.UsageError(f"there is no file {file}")
            return _verify(file, as_json)
        from ..recording.session import Request
        from ..recording.sinks import Split

        parts = Split(*split) if split else None
        request = Request(file, pattern, kind, overflow, compression, parts, last)
        return _record(request, as_json, bus, directory)


def _record(request: Request, as_json: bool, bus: str, directory: str | None) -> int:
    from ..recording.session import Session
    from ..recording.tap import TapBus

    ended: list[int] = []
    opened = TapBus(bus, dir=directory)
    with opened:
        session = Session(opened, directory, request, partial(_tell_unsaved, request.path))

        def end(number: int) -> None:
            ended.append(number)
            session.stop()

        with on_signals(end):
            if request.last is not None:
                signal.signal(signal.SIGUSR1, lambda *_: session.save())
            where = request.path if request.last is None else f"memory, the last {request.last:g} s"
            notice(f"recording {request.system}, {request.kind or 'every kind'}, on bus {bus} to {where}")
            try:
                session.run()
            except OSError as error:
                if as_json:
                    _print_json(session)
                # Not as an `OSError`: a pipe that was closed is an error here, too.
                raise click.ClickException(f"{request.path}: {_failed(error, session.written)}") from error
            finally:
                opened.close()  # while a second signal cannot interrupt it
            _tell(session, as_json)
    return 0 if ended[:1] == [signal.SIGINT] else 128 + ended[0] if ended else 0


def _tell_unsaved(path: str, error: OSError) -> None:
    notice(f"{path}: {_reason(error)}; the events are still in memory, and recording goes on")


def _failed(error: OSError, written: Written) -> str:
    lost = f"; {written.unwritten:,} more were not, and are lost" if written.unwritten else ""
    return f"{_reason(error)}; {written.events:,} events were written, and can be read{lost}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _print_json(session: Session) -> None:
    click.echo(orjson.dumps({**asdict(session.written), "topics": session.topics}).decode())


def _tell(session: Session, as_json: bool) -> None:
    if as_json:
        _print_json(session)
        return
    written, topics = session.written, session.topics
    lost = f", {written.lost:,} were lost" if written.lost else ""
    files = ", ".join(written.files) if len(written.files) < 4 else f"{len(written.files)} files"
    notice(
        f"recorded {written.events:,} events of {topics:,} topics{lost}: {files}, {size_text(written.size)}"
    )


def _verify(file: str, as_json: bool) -> int:
    from ..recording.verify import verify

    check_stdout()
    report = verify(file)
    if as_json:
        click.echo(orjson.dumps(_as_dict(report)).decode())
    else:
        for line in _lines(report):
            click.echo(visible(line))
    return _EXIT_CODES[report.verdict]


def _as_dict(report: Report) -> dict[str, Any]:
    return {**asdict(report), "lost": report.lost, "losses": [loss._asdict() for loss in report.losses]}


def _lines(report: Report) -> Iterator[str]:
    span = "" if report.begin is None else f", {_time(report.begin)} to {_time(report.end)}"
    yield f"{report.verdict}: {report.events:,} events of {report.topics:,} topics{span}"
    if report.damage:
        yield f"damaged: {report.damage}; read {report.readable:,} of {report.size:,} bytes"
    if report.lost or report.unwritten:
        part = "all" if report.unwritten == report.lost else f"{report.unwritten:,}"
        why = f", {part} of them because the file could not be written" if report.unwritten else ""
        yield f"lost: {report.lost:,} events{why}"
    for loss in report.losses[:_LOSSES_SHOWN]:
        yield _loss_line(loss)
    if (more := len(report.losses) - _LOSSES_SHOWN) > 0:
        yield f"  and of {more:,} more publishers and topics: see --json"
    if report.malformed:
        yield f"left out: {report.malformed:,} events that were malformed"


def _loss_line(loss: Loss) -> str:
    numbers = (
        f"{loss.first} to {loss.last}"
        if loss.gaps == 1
        else f"{loss.gaps:,} gaps, {loss.first} to {loss.last}"
    )
    after = "" if loss.after is None else f", after {_time(loss.after)}"
    return f"  {loss.events:,} of {loss.system} {loss.kind} from {loss.origin}: {numbers}{after}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")
