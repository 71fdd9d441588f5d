"""The command line as a whole: which bus, wrong command lines, and help."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from zbus.cli.app import cli

from .cli import run, run_without, shown, subscribed

pytestmark = pytest.mark.usefixtures("zbus_dir")


# which bus


def test_options_and_environment_name_the_bus(zbus_dir: str) -> None:
    with subscribed("a", "--count", "1", "--bus", "shop", "--dir", zbus_dir) as process:
        elsewhere = run("send", "a", "b", "/default")
        named = run("send", "a", "b", "/shop", ZBUS_BUS="shop")
        assert elsewhere.returncode == named.returncode == 0
        assert shown(process) == ("a  b  /shop\n", "", 0)


# wrong command lines and failures


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("send", "", "b", "/c"), 1, "zbus: system "),
        (("send", "a", "b", ""), 1, "zbus: path "),
        (("send", "a", "b", "/c", "1", "--bus", "a/b"), 1, "zbus: 'a/b' is not a bus name"),
        (("send", "a", "b"), 2, "zbus: Missing argument 'PATH'; see zbus send --help"),
        (("send", "--bsu", "x", "a", "b", "/c"), 2, "zbus: No such option"),
        (("sub", "ord*"), 1, "zbus: 'ord*' is not a system pattern"),
        (("sub", ""), 1, "zbus: "),
        (("sub", "a", "--count", "0"), 2, "zbus: Invalid value for '--count'"),
        (("sub", "a", "--overflow", "newest"), 2, "zbus: Invalid value for '--overflow'"),
        (("ls", "--dir", "/" + "x" * 100), 1, "zbus: "),
        (("nonsense",), 2, "zbus: No such command 'nonsense'"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(args: tuple[str, ...], code: int, message: str) -> None:
    failed = run(*args)
    assert (failed.stdout, failed.returncode) == ("", code)
    assert failed.stderr.startswith(message)
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_there_is_a_hint(missing: str) -> None:
    failed = run_without(missing, "ls")
    hint = "zbus: the command line needs click and rich: pip install click rich\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)


# help


def commands() -> list[tuple[str, click.Command]]:
    return [("zbus", cli), *((f"zbus {name}", command) for name, command in cli.commands.items())]


def test_all_commands_are_there() -> None:
    known = (
        "bench bw check completion demo doctor graph hz link ls metrics record replay send sub top web why"
    )
    assert set(cli.commands) == {*known.split()}


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    purpose = command.help.splitlines()[0]
    assert purpose.endswith("."), f"{name}: the first line of its help is not its purpose"
    assert purpose.rstrip(".") in command.get_short_help_str(80), f"{name}: its purpose is cut short"
    assert re.search(rf"Examples?\b.*:\n +(.*\| )?{name}\b", command.help), f"{name}: no example"
    assert command is cli or re.search(r"^ +Exit codes: [0-9]", command.help, re.M), f"{name}: no exit codes"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name} has no help"


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(args: tuple[str, ...]) -> None:
    shown = run(*args)
    assert (shown.stderr, shown.returncode) == ("", 0)
    for name, command in cli.commands.items():
        assert f"  {name}" in shown.stdout
        assert command.get_short_help_str(60) in shown.stdout


def test_a_command_does_not_import_the_others() -> None:
    code = """
import sys
from zbus.cli.app import run
run(["top", "--once"])
print(sorted(name for name in sys.modules if name.startswith(("zbus.cli.", "zbus.recording", "zbus.web"))))
"""
    imported = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert "'zbus.cli.top'" in imported
    assert not re.search(r"zbus\.(cli\.(ls|sub|record|graph|bench)|recording|web)\b", imported)


def test_version() -> None:
    assert re.fullmatch(r"zbus \d+\.\d+\.\d+\n", run("--version").stdout)
