"""The outputs on the page about the tools have the form that commands print: they run on the same shop."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from .process import LIMIT
from .shop import says, shop

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"

ME = re.escape(pwd.getpwuid(os.getuid()).pw_name)
# A measurement of ten seconds is of no more use here.
RECORDING = "today.mcap"
SHORTER = {"zbus bench ": "zbus bench --rounds 1 ", "zbus web": "zbus web --port 0"}
VALUES = [
    (r"/\S+/buses/\S+", "/run"),
    (r"\b[0-9a-f]{16}\b", "0"),
    (r"token=\S+", "token=0"),
    (r"\(\d+, [^)]+\)", "(0, me)"),
    (r"\d[\d,]*(?:\.\d+)?(?: ?(?:[kMG]?B|[mµn]?s|min|h)\b)?", "0"),
    (r"(?<= )- *(?= |$)", "0 "),
    (r" +", " "),
]


class Place(NamedTuple):
    env: dict[str, str]
    directory: Path


@pytest.fixture(scope="module")
def place(interruptible: None) -> Iterator[Place]:
    """Open the shop."""
    with TemporaryDirectory(prefix="zb-") as directory, shop(Path(directory)) as env:
        yield Place(env, Path(directory))


def forms(command: str, output: str) -> set[str]:
    """Return the lines of an output without what differs from run to run."""
    found = set()
    for line in output.splitlines():
        if command.startswith("zbus doctor"):  # it tells of the machine
            line = line.split()[1]
        if command.startswith("zbus ls"):
            line = re.sub(rf"(?<=\d)  (?:{ME}|root)\b", "  me", line)
        for pattern, value in VALUES:
            line = re.sub(pattern, value, line)
        found.add(line.strip())
    return found


OUTPUTS = re.findall(r"^```console\n\$ (.*)\n((?:.*\n)*?)```$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.timeout(600)
def test_outputs_have_the_form_that_commands_print(place: Place) -> None:
    """In the order of the page: one command reads what another has written. Rates come with time."""
    assert len(OUTPUTS) >= 15
    for command, output in OUTPUTS:
        shorter = command
        for long, short in SHORTER.items():
            shorter = shorter.replace(long, short)
        wanted, deadline = forms(command, output), time.monotonic() + LIMIT
        while missing := wanted - (printed := forms(command, says(shorter, *place))):
            assert time.monotonic() < deadline, f"{command} prints no {missing}, but {printed}"
            if command.startswith(f"zbus record {RECORDING}"):  # it replaces no file
                (place.directory / RECORDING).unlink(missing_ok=True)
