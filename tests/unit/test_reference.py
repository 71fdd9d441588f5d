"""The reference is what its tool would write, so it says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import zbus
from zbus import aio, errors, testing

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference.md"
TOOL = ("tools/reference", "--check")


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, *TOOL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (
        f"docs/reference.md differs from the code: run `python tools/reference`\n{done.stdout}{done.stderr}"
    )


def test_every_public_name_has_an_entry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for module in (zbus, aio, errors, zbus.logging, testing):
        section = page.partition(f"\n## {module.__name__}\n")[2].partition("\n## ")[0]
        for name in module.__all__:
            assert f"`{name}`" in section, f"{module.__name__}.{name}"


def test_every_section_of_a_docstring_is_rendered() -> None:
    left = re.findall(
        r"^ *(?:Args|Attributes|Raises|Returns|Yields):$", PAGE.read_text(encoding="utf-8"), re.M
    )
    assert left == []


def test_no_two_headings_share_an_anchor() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({heading.lower() for heading in headings}) == len(headings)
