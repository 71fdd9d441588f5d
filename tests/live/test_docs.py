"""The docs hold: every example runs, and every table of the specification is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zbus import Policy
from zbus.protocol.patterns import Matcher, prefixes
from zbus.protocol.wire import Malformed, decode

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide.md"
FAQ = ROOT / "docs" / "faq.md"
WIRE = ROOT / "docs" / "spec" / "wire.md"
HOWTO = ROOT / "docs" / "howto"
POLICY = HOWTO / "policy.md"
TESTING = HOWTO / "testing.md"
DEPLOY = HOWTO / "deploy.md"
ROSTER = ROOT / "docs" / "spec" / "roster.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])
EXAMPLE_SECONDS = 30

_CODE = re.compile(r"`([^`]*)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of `language` in `page`, each with the line it begins at."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def cases(language: str, *pages: Path) -> list[object]:
    return [
        pytest.param(page, line, code, id=f"{name_of(page)}:{line}")
        for page in pages
        for line, code in blocks(page, language)
    ]


def prose(page: Path) -> str:
    """Return `page` without its code."""
    return _CODE.sub("", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def rows(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the table in `page` whose header line is `header`."""
    body = page.read_text().partition(f"{header}\n")[2]
    lines = body.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def literal(cell: str) -> bytes:
    """Return the bytes that the code in a cell stands for."""
    text = "".join(_CODE.findall(cell)).replace(r"\|", "|")
    return re.sub(r"\\(\d)", lambda match: chr(int(match[1])), text).encode()


@pytest.mark.parametrize(
    ("page", "line", "code"),
    cases(
        "python",
        README,
        GUIDE,
        FAQ,
        *(page for page in sorted(HOWTO.glob("*.md")) if page != TESTING),
    ),
)
def test_every_example_runs_to_its_end(page: Path, line: int, code: str, zbus_dir: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ZBUS_BUS"}
    done = subprocess.run(
        # Blank lines in front, so that a traceback names the line of the page.
        [sys.executable, "-W", "error", "-c", "\n" * (line - 1) + code],
        env={**environment, "ZBUS_DIR": zbus_dir},
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
    )
    assert done.returncode == 0, f"{name_of(page)}:{line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("page", "line", "code"), cases("python", TESTING))
def test_every_example_of_testing_passes(page: Path, line: int, code: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(code)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    result.assert_outcomes(passed=code.count("def test_"))


@pytest.mark.parametrize(("page", "line", "text"), cases("toml", POLICY))
def test_every_policy_file_loads(page: Path, line: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    assert Policy.from_toml(path).rules, f"{name_of(page)}:{line}"


def test_the_docs_have_examples() -> None:
    assert blocks(README, "python")
    assert len(blocks(GUIDE, "python")) >= 8
    assert blocks(POLICY, "toml")
    least = {
        "command-line.md": 0,
        "conform.md": 0,
        "coalesce.md": 1,
        "data.md": 3,
        "deploy.md": 3,
        "monitoring.md": 1,
        "off-the-machine.md": 0,
        "policy.md": 3,
        "slow-subscribers.md": 3,
        "web.md": 0,
        "write-a-peer.md": 0,
    }
    assert all(len(blocks(page, "python")) >= least.get(page.name, 4) for page in HOWTO.glob("*.md"))


def test_the_readme_gives_the_two_commands() -> None:
    commands = [line for _, code in blocks(README, "sh") for line in code.splitlines()]
    demo, check = commands
    assert "python3 -m venv .venv" in demo
    assert ".venv/bin/pip install -q -e '.[cli]'" in demo
    assert demo.endswith("&& .venv/bin/zbus demo")
    assert check == "tools/check"
    assert os.access(ROOT / check, os.X_OK)


@pytest.mark.parametrize(("page", "letter"), [(WIRE, "W"), (ROSTER, "R")], ids=["wire", "roster"])
def test_clauses_are_numbered_in_order_and_references_name_one(page: Path, letter: str) -> None:
    defined = []
    for section in page.read_text().split(
        "\n## "
    ):  # a new clause gets the next number, at the end of its section
        numbers = [int(number) for number in re.findall(rf"^\*\*{letter}(\d+)\.\*\*", section, re.M)]
        assert numbers == sorted(numbers)
        defined += numbers
    assert len(set(defined)) == len(defined)
    for other in PAGES:
        for number in re.findall(rf"\b{letter}(\d+)\b", prose(other)):
            assert int(number) in defined, f"{name_of(other)} refers to {letter}{number}"


def test_the_frames_of_the_specification_are_what_it_says() -> None:
    table = rows(WIRE, "| frame | is |")
    assert len(table) >= 6
    for cell, meaning in table:
        frame = literal(cell)
        if meaning.startswith("malformed"):
            with pytest.raises(Malformed):
                decode(frame)
        else:
            events = decode(frame).events
            assert len(events) == (2 if "batch" in meaning else 1)


def test_the_printf_of_the_specification_prints_an_event() -> None:
    [command] = [code for _, code in blocks(WIRE, "sh") if code.startswith("printf")]
    frame = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=10).stdout
    [evt] = decode(frame).events
    assert (evt.system, evt.kind, evt.path, evt.data) == (
        "orders",
        "order.created",
        "/orders/1",
        {"total": 9.5},
    )


def test_the_subscriptions_of_the_specification_are_what_a_pattern_becomes() -> None:
    table = rows(WIRE, "| system | kind | subscriptions |")
    assert len(table) >= 7
    for system, kind, subscriptions in table:
        which = Matcher(literal(kind).decode()) if kind else None
        wanted = tuple(literal(f"`{text}`") for text in _CODE.findall(subscriptions)) or (b"",)
        assert prefixes(Matcher(literal(system).decode()), which) == wanted


def test_the_patterns_of_the_guide_select_what_it_says() -> None:
    table = rows(GUIDE, "| pattern | selects | does not select |")
    assert len(table) >= 5
    for patterns, selected, others in table:
        for pattern in _CODE.findall(patterns.replace(r"\|", "|")):
            matcher = Matcher(pattern)
            assert matcher.everything or selected != "everything"
            assert all(matcher.matches(name) for name in _CODE.findall(selected))
            assert not any(matcher.matches(name) for name in _CODE.findall(others))
