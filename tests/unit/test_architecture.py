"""What the pages for contributors name is there: files, classes, methods and functions."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "zbus"
PAGES = [ROOT / "docs" / name for name in ("architecture.md", "contributing.md")]
HINT = "rename it on the page, too"

_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|json|toml)|/[\w-]+)")
_MEMBER = re.compile(r"([A-Z]\w+)\.(\w+)")
_FUNCTION = re.compile(r"(?:([a-z]\w*)\.)?([a-z_]\w*)\(\)")
_CLASS = re.compile(r"[A-Z]\w*[a-z]\w*")
# Not modules of the package: those of others, what a fault is given, and a program.
_ELSEWHERE = ("os", "zmq", "zbus", "row", "stage", "mkfs")


def codes(page: Path) -> set[str]:
    """Return what stands in backticks on a page, and the names in its diagrams that look like methods."""
    text = page.read_text(encoding="utf-8")
    fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`]+)`", fences.sub("", text))
    diagrams = [body for language, body in fences.findall(text) if not language]
    drawn = [name for body in diagrams for name in re.findall(r"\w+/\w+\.py|[A-Z]\w+\.\w+", body)]
    return {*inline, *drawn}


def members() -> dict[str, set[str]]:
    """Return by class what it has: methods, class variables, slots, and what its methods set on `self`."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                source = ast.unparse(node)
                found[node.name] |= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                found[node.name] |= {*re.findall(r"self\.(\w+)(?::.*)? =", source)}
                found[node.name] |= {*re.findall(r"^    (\w+)(?:: .*)? =", source, re.MULTILINE)}
                found[node.name] |= {*re.findall(r"self\.\w+, self\.(\w+) =", source)}
    return found


def functions() -> dict[str, set[str]]:
    """Return by module, and by the empty text for all of them, the functions and methods it defines."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        names = {
            node.name
            for node in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        found[path.stem] |= names
        found[""] |= names
    return found


def defined_by_name(name: str) -> bool:
    """Return whether the package or its tests have a class, or an alias, of that name."""
    pattern = re.compile(rf"^(?:class {name}\b|{name}(?:: .*)? = )", re.MULTILINE)
    return any(
        pattern.search(path.read_text(encoding="utf-8"))
        for top in ("zbus", "tests")
        for path in (ROOT / top).rglob("*.py")
    )


def exists(path: str) -> bool:
    return any((base / path).exists() for base in (ROOT, PACKAGE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_it_names_are_there(page: Path) -> None:
    named = {code for code in codes(page) if _PATH.fullmatch(code) and "<" not in code}
    assert len(named) > 10
    for path in sorted(named):
        assert exists(path), f"{page.name} names {path}: {HINT}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_classes_and_functions_it_names_are_there(page: Path) -> None:
    classes, defined = members(), functions()
    for code in sorted(codes(page)):
        if match := _MEMBER.fullmatch(code):
            assert match[2] in classes[match[1]], f"{page.name} names {code}: {HINT}"
        elif _CLASS.fullmatch(code):
            assert hasattr(builtins, code) or defined_by_name(code), f"{page.name} names {code}: {HINT}"
        elif match := _FUNCTION.fullmatch(code):
            known = match[2] in defined[match[1] or ""] or match[1] in _ELSEWHERE
            assert known, f"{page.name} names {code}: {HINT}"
        elif match := re.fullmatch(r"([a-z_]+)\.([a-z_]\w*)", code):
            known = match[2] in defined[match[1]] or exists(code) or match[1] in _ELSEWHERE
            assert known, f"{page.name} names {code}: {HINT}"


def test_the_glossary_explains_words_that_are_in_use() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "docs" / "spec").glob("*.md")]
    used = "\n".join(path.read_text(encoding="utf-8") for path in sources).lower()
    sections = glossary.partition("## On the wire")[2]
    words = [
        word
        for row in re.findall(r"^\| (\*\*.*?\*\*) \|", sections, re.M)
        for word in re.findall(r"\*\*(.*?)\*\*", row)
    ]
    assert len(words) > 40
    for word in words:
        assert re.search(rf"\b{word}", used), (
            f"{word!r} is in the glossary, and neither in the code nor in the spec"
        )
