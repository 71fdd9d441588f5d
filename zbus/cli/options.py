"""What the commands have in common: options that name a bus, opening it, and notices on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click

import zbus

from ..roster.process_info import visible
from .signals import ignore_signals

__all__ = ["bus_options", "notice", "open_bus"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def bus_options(command: _Function) -> _Function:
    """Add `--bus` and `--dir`, which are passed to the command as `bus` and `directory`."""
    name = click.option(
        "--bus",
        metavar="NAME",
        default="default",
        envvar="ZBUS_BUS",
        show_default=True,
        show_envvar=True,
        help="The name of the bus.",
    )
    root = click.option(
        "--dir",
        "directory",
        metavar="DIR",
        envvar="ZBUS_DIR",
        show_envvar=True,
        help="The directory of all buses.  [default: $XDG_RUNTIME_DIR/zbus]",
    )
    return name(root(command))


@contextmanager
def open_bus(name: str, directory: str | None) -> Iterator[zbus.Bus]:
    """Open a bus, and close it at the end. A second signal does not interrupt the closing."""
    bus = zbus.Bus(name, dir=directory)
    try:
        yield bus
    finally:
        ignore_signals()
        bus.close()


def notice(message: str) -> None:
    """Print a message for people to stderr, so that stdout has only data; ignore it if that fails."""
    with suppress(OSError):
        click.echo(f"zbus: {visible(message)}", err=True)
