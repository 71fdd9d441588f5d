"""`zbus send`: send one event."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..protocol.exact import Inexact, parse_exactly
from .options import bus_options, open_bus
from .standard_streams import check_stdin

__all__ = ["send"]


def _refuse_options(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001
    # `-5` is data, so click passes unknown options on as arguments. But no argument starts with `--`.
    if value is not None and value.startswith("--"):
        raise click.NoSuchOption(value, ctx=ctx)
    return value


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("system", callback=_refuse_options)
@click.argument("kind", callback=_refuse_options)
@click.argument("path", callback=_refuse_options)
@click.argument("data", metavar="[JSON|-]", required=False, callback=_refuse_options)
@bus_options
def send(system: str, kind: str, path: str, data: str | None, bus: str, directory: str | None) -> None:
    """Send one event to every subscriber.

    The data is JSON text, or `-` to read it from stdin. Without it, the event has no data.

    Exit codes: 0 the event was sent, also if there is no subscriber; 1 it was not.

    \b
    Examples:
      zbus send orders order.created /orders/123 '{"total": 9.5}'
      echo '[1, 2]' | zbus send metrics cpu /host/1 -
    """
    value = None if data is None else _parse(_read_stdin() if data == "-" else data)
    with open_bus(bus, directory) as opened:
        opened.send(system, kind, path, value)


def _read_stdin() -> bytes:
    check_stdin()
    return sys.stdin.buffer.read()


def _parse(text: str | bytes) -> Any:
    try:
        return parse_exactly(text)
    except Inexact as error:
        raise click.UsageError(f"the data cannot be sent as it is: {error}") from error
    except ValueError as error:
        hint = ", and text needs its own quotes: '\"text\"'" if isinstance(text, str) else ""
        raise click.UsageError(f"the data is not JSON ({error}){hint}") from error
