"""The section about the command line, from what click knows of it."""

from __future__ import annotations

import inspect
import re

import click
from docstring import markdown
from signatures import fenced

from zbus.cli.app import cli

__all__ = ["commands"]

_PARAGRAPH = "\b\n"  # how click is told to leave the lines of one as they are


def commands() -> str:
    """Return the section: each command with its usage, its help, and its options."""
    parts = ["## The command line", "`python -m zbus` is the same as `zbus`."]
    for name, command in sorted(cli.commands.items()):
        usage = [f"zbus {name}", *command.collect_usage_pieces(click.Context(command))]
        options = [
            f"| `{_flag(one)}` | {_help(one)} |" for one in command.params if isinstance(one, click.Option)
        ]
        table = "\n".join(["| option | meaning |", "|---|---|", *options])
        parts += [f"### zbus {name}", fenced(" ".join(usage), "sh"), _text(command.help or ""), table]
    return "\n\n".join(parts) + "\n"


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
