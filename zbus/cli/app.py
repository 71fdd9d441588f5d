"""The table of commands, and the place where each failure becomes one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections import UserDict
from importlib import import_module
from typing import Any

import click

import zbus

from .options import notice
from .standard_streams import mute

__all__ = ["cli", "run"]

# Each is the name of a module here and of the command in it.
_NAMES = (
    "bench",
    "bw",
    "check",
    "completion",
    "demo",
    "doctor",
    "graph",
    "hz",
    "link",
    "ls",
    "metrics",
    "record",
    "replay",
    "send",
    "sub",
    "top",
    "web",
    "why",
)


class _Table(UserDict[str, click.Command]):
    """The commands by name. One is imported when it is looked up: importing all takes a tenth of a second."""

    def __getitem__(self, name: str) -> click.Command:
        super().__getitem__(name)  # raises KeyError
        command = getattr(import_module(f".{name}", __package__), name)
        assert isinstance(command, click.Command)
        return command


class _Commands(click.Group):
    """A group that turns the exceptions of its commands into those that click reports."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, for example `head`, has read enough
            mute()
            return 0
        except zbus.Error as error:
            raise click.ClickException(error.message) from error
        except OSError as error:  # for example stdout is redirected to a full disk
            mute()
            raise click.ClickException(error.strerror or str(error)) from error
        return code


@click.group(
    cls=_Commands,
    commands=_Table(dict.fromkeys(_NAMES, click.Command(None))),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(zbus.__version__, message="zbus %(version)s")
def cli() -> None:
    """Send and watch events on a bus between processes, without a broker.

    \b
    Example, in two terminals:
      zbus sub 'orders.**'
      zbus send orders order.created /orders/123 '{"total": 9.5}'
    """


def run(args: list[str]) -> int:
    """Run the command in `args` and return its exit code. Without a command, show the help."""
    # The library logs warnings, for example of lost events; the command shows them as notices.
    logging.basicConfig(format="zbus: %(message)s", level=logging.WARNING)
    try:
        code = cli.main(args or ["--help"], prog_name="zbus", standalone_mode=False)
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        notice(error.format_message().removesuffix(".") + where)
        return error.exit_code
    except click.ClickException as error:
        notice(error.format_message())
        return error.exit_code
    except SystemExit:  # raised by click when the reader of the help has gone away
        mute()
        return 0
    except OSError as error:  # the help could not be written
        mute()
        notice(error.strerror or str(error))
        return 1
    return code if isinstance(code, int) else 0
