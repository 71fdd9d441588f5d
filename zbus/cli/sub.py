"""`zbus sub`: print events as they arrive."""

from __future__ import annotations

import itertools
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import click

import zbus

from ..runtime.threads import start
from .event_lines import human_line, json_line
from .options import bus_options, notice, open_bus
from .signals import ignore_signals
from .standard_streams import check_stdout

__all__ = ["sub"]


@click.command()
@click.argument("pattern")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, with every field.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N events.")
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0),
    help="Exit with code 1 if no event arrives for S seconds.",
)
@click.option(
    "--overflow",
    type=click.Choice(get_args(zbus.Overflow)),
    default="drop",
    show_default=True,
    help="When the queue is full, drop the newest events, make publishers wait, or keep only the newest of"
    " each system, kind and path.",
)
@bus_options
def sub(
    pattern: str,
    kind: str | None,
    as_json: bool,
    count: int | None,
    timeout: float | None,
    overflow: zbus.Overflow,
    bus: str,
    directory: str | None,
) -> int:
    """Print events as they arrive, one per line, until Ctrl-C.

    A line has the local time at which the event was sent, its system, kind, path and data.

    PATTERN and KIND are dot-separated segments: `*` matches one segment, `**` any number of them, `(a|b)`
    either; a lone `*` matches everything. Only events go to stdout; notices, for example of lost events, go
    to stderr.

    The JSON object has `system`, `kind`, `path`, `data`, `origin`, `seq` and `time`. Data that was sent as
    bytes is `{"base64": ...}`.

    Exit codes: 0 after --count events, 1 if none came for --timeout seconds, 130 for Ctrl-C.

    \b
    Examples:
      zbus sub 'orders.**'
      zbus sub --json --count 10 '*' 'order.*'
    """
    check_stdout()
    with (
        open_bus(bus, directory) as opened,
        opened.subscribe(pattern, kind, overflow=overflow) as subscription,
    ):
        notice(f"subscribed to {pattern}, {kind or 'every kind'}, on bus {bus}")
        try:
            with _closed_with_stdout(subscription):
                return _print(subscription.channel(), json_line if as_json else human_line, count, timeout)
        finally:
            if subscription.lost:
                notice(f"{subscription.lost} events were lost: they came faster than they were read")


def _print(
    channel: zbus.Channel, line: Callable[[zbus.Event], str], count: int | None, timeout: float | None
) -> int:
    out = sys.stdout.buffer
    for _ in range(count) if count else itertools.count():
        try:
            evt, _ok = channel.receive(timeout)
        except zbus.Timeout as error:
            notice(error.message)
            return 1
        if evt is None:
            break
        # UTF-8 whatever the locale says, as on the bus.
        out.write(line(evt).encode() + b"\n")
        out.flush()
    return 0


@contextmanager
def _closed_with_stdout(subscription: zbus.Subscription) -> Iterator[None]:
    """Close the subscription as soon as the reader of a pipe goes away: the next event may never come."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        yield
        return
    ending, end = os.pipe()
    poll = select.poll()
    poll.register(out, 0)  # reports POLLERR without being asked to
    poll.register(ending, 0)  # and POLLHUP

    def watch() -> None:
        poll.poll()
        subscription.close()

    thread = start("zbus-stdout", watch)
    try:
        yield
    finally:
        ignore_signals()
        os.close(end)
        thread.join()
        os.close(ending)
