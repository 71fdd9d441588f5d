"""The pages hang together: every link leads somewhere, and every page is found from the index."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_blocks(page: Path) -> str:
    """Return `page` without its blocks of code."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Return what `page` links to, but for other sites."""
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def target_of(page: Path, link: str) -> Path:
    file = link.partition("#")[0]
    return (page.parent / file).resolve() if file else page


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of `page`, as GitHub makes them: the second of a name gets `-1`."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def reachable(start: Path) -> set[Path]:
    """Return the pages that links lead to from `start`, by way of others."""
    found, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        new = {target_of(page, link) for link in links(page)} & {*PAGES} - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        other, anchor = target_of(page, link), link.partition("#")[2]
        assert other.exists(), f"{name_of(page)} links to {link}"
        assert other.is_relative_to(ROOT), f"{name_of(page)} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(other), f"{name_of(page)} links to {link}"


def test_every_page_is_in_the_index() -> None:
    listed = {target_of(INDEX, link) for link in links(INDEX)}
    assert {page for page in listed if page.suffix == ".md"} == {*PAGES} - {README, INDEX}


@pytest.mark.parametrize("start", [README, INDEX], ids=name_of)
def test_every_page_is_reached(start: Path) -> None:
    assert {*PAGES} - {README} <= reachable(start)


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page: `zbus.Bus`\n## What's new?\n```\n# no heading\n```\n## What's new?\n### send_many\n"
    )
    assert anchors(page) == {"a-page-zbusbus", "whats-new", "whats-new-1", "send_many"}
