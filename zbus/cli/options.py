"""What the commands have in common: options that name a bus, opening it, and notices on stderr."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click

import zbus

from ..roster.process_info import visible
from .signals import ignore_signals
from .suggestions import bus_names

__all__ = [
    "bus_options",
    "directory_option",
    "needs",
    "notice",
    "on_the_command_line",
    "open_bus",
    "recordings",
    "seconds_option",
]

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
        shell_complete=bus_names,
        help="The name of the bus.",
    )
    return name(directory_option(command))


def directory_option(command: _Function) -> _Function:
    """Add `--dir`, which is passed to the command as `directory`."""
    return click.option(
        "--dir",
        "directory",
        metavar="DIR",
        type=click.Path(file_okay=False),
        envvar="ZBUS_DIR",
        show_envvar=True,
        help="The directory of all buses.  [default: $XDG_RUNTIME_DIR/zbus]",
    )(command)


def seconds_option(name: str, default: float, help: str) -> Callable[[_Function], _Function]:
    """Return an option for a number of seconds, from a tenth to an hour."""
    return click.option(
        name, metavar="S", type=click.FloatRange(0.1, 3600.0), default=default, show_default=True, help=help
    )


def on_the_command_line(option: str) -> bool:
    """Return whether an option of the present command was given as such, not by the environment."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


@contextmanager
def open_bus(name: str, directory: str | None) -> Iterator[zbus.Bus]:
    """Open a bus, and close it at the end. A second signal does not interrupt the closing."""
    bus = zbus.Bus(name, dir=directory)
    try:
        yield bus
    finally:
        ignore_signals()
        bus.close()


def needs(what: str, extra: str, *packages: str) -> None:
    """Say in one line which packages are missing for `what`, and which extra has them."""
    if all(importlib.util.find_spec(package.replace("-", "_")) for package in packages):
        return
    raise click.ClickException(
        f"{what} needs {' and '.join(packages)}, the extra `{extra}`: pip install {' '.join(packages)}"
    )


@contextmanager
def recordings(file: str) -> Iterator[None]:
    """Say in one line what is wrong with the file of a recording, or which packages are missing."""
    needs("this command", "record", "mcap", "pybase64")
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError as error:
        raise click.ClickException(f"{error.filename} exists already: choose another name") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(f"{error.filename or file}: {reason}") from error


def notice(message: str) -> None:
    """Print a message for people to stderr, so that stdout has only data; ignore it if that fails."""
    with suppress(OSError):
        click.echo(f"zbus: {visible(message)}", err=True)
