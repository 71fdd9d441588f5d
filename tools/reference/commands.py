"""The page about the command line, from what click knows of it."""

from __future__ import annotations

import inspect
import re

import click
from docstring import markdown
from signatures import fenced

from zbus.cli.app import cli

__all__ = ["commands"]

_HEAD = """\
# Commands

Every command of `zbus` with its options, exit codes and JSON, from the help texts. [The command
line](howto/command-line.md) shows how to use them. `python -m zbus` is the same as `zbus`.

<!-- Written by `python tools/reference`. Change the help texts, not this page. -->
"""
_REST = """\
## Exit codes

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | failure, or the command's own "no": its help says which |
| 2 | wrong command line |
| 128 + n | ended by signal n: 130 for Ctrl-C, 143 for SIGTERM |

If the reader of stdout goes away, as `head` does, that also counts as success. `zbus send` prints nothing,
so its 0 means that the event was sent, even if standard streams are closed or full. The other commands fail
if they cannot print. Data goes to stdout, notices and errors to stderr.

## JSON

What `--json` prints keeps its fields; new ones may be added. Times are seconds since the epoch, durations and
ages are seconds, sizes are bytes, and what is unknown is `null`.
"""
_PARAGRAPH = "\b\n"  # how click is told to leave the lines of one as they are


def commands() -> str:
    """Return the page: each command with its usage, its help, and its options."""
    known = sorted(cli.commands.items())
    rows = [f"| [`zbus {name}`](#zbus-{name}) | {_purpose(command)} |" for name, command in known]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    parts = [_HEAD + "\n" + table, _REST.rstrip("\n")]
    for name, command in known:
        usage = [f"zbus {name}", *command.collect_usage_pieces(click.Context(command))]
        options = [
            f"| `{_flag(one)}` | {_help(one)} |" for one in command.params if isinstance(one, click.Option)
        ]
        parts += [f"## zbus {name}", fenced(" ".join(usage), "sh"), _text(command.help or "")]
        if options:
            parts.append("\n".join(["| option | meaning |", "|---|---|", *options]))
    return "\n\n".join(parts) + "\n"


def _purpose(command: click.Command) -> str:
    return (command.help or "").partition("\n")[0]


def _text(help: str) -> str:
    """Return a help text as Markdown, with its examples as code."""
    text = inspect.cleandoc(help).replace(_PARAGRAPH, "")
    text = re.sub(r"^(Examples?:)\n(?=  )", r"\1\n\n", text, flags=re.MULTILINE)
    return markdown(re.sub(r"^  (?=\S)", "    ", text, flags=re.MULTILINE), code="sh")


def _flag(option: click.Option) -> str:
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    value = option.metavar or "\\|".join(map(str, choices))
    return f"{', '.join(option.opts)} {'' if option.is_flag else value}".strip()


def _help(option: click.Option) -> str:
    """Return the text of an option, with its default and its environment variable."""
    text = (option.help or "").replace("|", "\\|")
    shown = option.show_default and isinstance(option.default, str | int | float)
    default = f" Default: `{option.default}`." if shown else ""
    variable = f" Environment: `${option.envvar}`." if option.envvar else ""
    return text.replace("  [default: ", " Default: `").replace("]", "`.") + default + variable
