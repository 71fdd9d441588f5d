"""The page about the tools has every command, and each picture of the docs is there, small, and used."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zbus.cli.app import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "tools.md").read_text()
PICTURES = sorted((DOCS / "pictures").iterdir())
LARGEST_BYTES = 150_000


def sections() -> dict[str, str]:
    """Return the section of each command."""
    parts = re.split(r"^##+ (.*)\n", PAGE, flags=re.MULTILINE)
    titles = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {title.removeprefix("zbus "): text for title, text in titles.items() if title.startswith("zbus ")}


def test_every_command_has_a_section_in_which_it_is_run() -> None:
    found = sections()
    assert {*found} == {*cli.commands}
    for name, text in found.items():
        run = re.findall(r"^(?:\$ )?zbus (\S+)", text, re.MULTILINE)
        assert name in run or "![zbus " + name in text, name
        assert {*run} <= {name}


def test_every_command_is_named_in_the_contents() -> None:
    contents = re.findall(r"^- \[.*\]\(#.*\) (.*)$", PAGE, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(contents))
    assert named == [*sections()]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_used(picture: Path) -> None:
    assert picture.stat().st_size < LARGEST_BYTES
    uses = [page for page in DOCS.rglob("*.md") if f"pictures/{picture.name})" in page.read_text()]
    assert uses


@pytest.mark.parametrize(
    "picture", [path for path in PICTURES if path.suffix == ".svg"], ids=lambda path: path.name
)
def test_a_picture_asks_no_other_host_for_anything(picture: Path) -> None:
    text = picture.read_text()
    ElementTree.fromstring(text)
    assert not re.search(r"url\(\W*http|href=\"http|<script|@import", text)


def test_pictures_that_pages_show_exist() -> None:
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / name).exists(), f"{page}: {name}"
