"""The reference is what its tool would write, so it says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import zbus
from zbus import aio, errors, testing
from zbus.cli.app import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference.md"
COMMANDS = ROOT / "docs" / "cli.md"
TOOL = ("tools/reference", "--check")


def test_reference_and_commands_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, *TOOL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (
        f"the pages differ from the code: run `python tools/reference`\n{done.stdout}{done.stderr}"
    )


def test_every_public_name_has_an_entry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for module in (zbus, aio, errors, zbus.logging, testing):
        section = page.partition(f"\n## {module.__name__}\n")[2].partition("\n## ")[0]
        for name in module.__all__:
            assert f"`{name}`" in section, f"{module.__name__}.{name}"


def test_every_command_has_an_entry_with_usage_exit_codes_and_examples() -> None:
    head, *entries = COMMANDS.read_text(encoding="utf-8").split("\n## zbus ")
    assert [entry.partition("\n")[0] for entry in entries] == sorted(cli.commands)
    for entry in entries:
        name = entry.partition("\n")[0]
        assert f"[`zbus {name}`](#zbus-{name})" in head
        assert f"```sh\nzbus {name} " in entry
        assert re.search(r"^Exit codes: [0-9]", entry, re.M), name
        assert re.search(r"^Examples?:$", entry, re.M), name
        for option in cli.commands[name].params:
            if isinstance(option, click.Option):
                assert option.opts[0] in entry, f"{name} {option.opts[0]}"


def test_every_section_of_a_docstring_is_rendered() -> None:
    left = re.findall(
        r"^ *(?:Args|Attributes|Raises|Returns|Yields):$", PAGE.read_text(encoding="utf-8"), re.M
    )
    assert left == []


@pytest.mark.parametrize("page", [PAGE, COMMANDS], ids=lambda page: page.name)
def test_no_two_headings_share_an_anchor(page: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({heading.lower() for heading in headings}) == len(headings)
