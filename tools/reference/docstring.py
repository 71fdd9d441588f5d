"""A docstring in Google style, as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

from signatures import fenced

__all__ = ["markdown", "summary"]

SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
}
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):$", re.MULTILINE)
_ITEM = re.compile(r"([\w, ]+): (.*)", re.DOTALL)


def summary(thing: object) -> str:
    """Return the first sentence of a docstring: its first line."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def markdown(text: str, *, code: str = "python") -> str:
    """Return a docstring as Markdown; `code` is the language of what is indented in its prose."""
    prose, *sections = _SECTION.split(inspect.cleandoc(text))
    blocks = [*_prose(prose, code)]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        # What is not indented any more is prose again.
        lines = body.strip("\n").splitlines()
        end = next((n for n, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
        blocks.append(f"**{SECTIONS[name]}**")
        blocks.append(_items(textwrap.dedent("\n".join(lines[:end])).strip()))
        blocks += _prose("\n".join(lines[end:]), code)
    return "\n\n".join(blocks)


def _prose(text: str, code: str) -> Iterator[str]:
    """Yield paragraphs, lists and code; code is what is indented after an empty line."""
    run: list[str] = []
    for block in re.split(r"\n\n+", text.strip("\n")):
        if block.startswith("    "):
            run.append(textwrap.dedent(block))
            continue
        if run:
            yield fenced("\n\n".join(run), code)
            run = []
        if block.strip():
            yield block
    if run:
        yield fenced("\n\n".join(run), code)


def _items(text: str) -> str:
    """Return the items of a section as a list; text that names nothing as a paragraph."""
    items = re.split(r"\n(?! )", text)
    matches = [_ITEM.fullmatch(item) for item in items]
    if not all(matches):
        return " ".join(text.split())
    return "\n".join(
        f"- {', '.join(f'`{name}`' for name in match[1].split(', '))}: {' '.join(match[2].split())}"
        for match in matches
        if match
    )
