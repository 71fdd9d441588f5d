"""The distribution: its name, and what nobody is told to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import zbus.cli

ROOT = Path(__file__).parents[2]
NAME = "zbus-events"

# What fetches code by its name from an index, up to the end of the line or of the command.
_FETCHES = re.compile(
    r"\b(?:(?:pip[x3]?|uv|uv pip|uv tool|poetry|pdm|conda|mamba)\s+(?:install|add|inject|run|download)"
    r"|uvx|pipx run|easy_install)\b([^\n&|;`]*)"
)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def sources() -> list[Path]:
    """Return the files of the checkout, not what is generated in it."""
    tops = [ROOT / name for name in ("zbus", "tests", "docs", "tools", ".ci")]
    inner = [path for top in tops for path in top.rglob("*") if path.is_file()]
    found = [*inner, *ROOT.glob("*.*"), *ROOT.glob("tools/*")]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def fetched(text: str) -> list[str]:
    """Return the names of this project that commands in `text` would fetch from an index."""
    words = [
        word.strip("'\"").rstrip(".,:)") for match in _FETCHES.finditer(text) for word in match[1].split()
    ]
    return [word for word in words if re.fullmatch(r"zbus([-_.]\w+)*(\[[\w,]*\]?)?([=<>!~]=?.*)?", word)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pip install 'zbus[cli]'", ["zbus[cli]"]),
        ("(`pip install zbus`)", ["zbus"]),
        ("python -m pip install -U zbus==0.0.3", ["zbus==0.0.3"]),
        ("pipx install zbus-events", ["zbus-events"]),
        ("uv pip install click zbus_events[typed].", ["zbus_events[typed]"]),
        ("uvx zbus ls", ["zbus"]),
        ("pip install -q -e '.[cli]' && .venv/bin/zbus demo", []),
        ("pip install dist/zbus_events-*.whl", []),
        ("pip install click rich", []),
    ],
)
def test_what_fetches_by_name_is_found(text: str, names: list[str]) -> None:
    assert fetched(text) == names


def test_nothing_tells_anybody_to_fetch_this_by_name() -> None:
    """`zbus` is a stranger's on PyPI, and as long as `zbus-events` is nobody's, it may become one's."""
    checked = [path for path in sources() if path != Path(__file__)]
    assert {ROOT / "README.md", ROOT / "tools" / "environment", Path(zbus.cli.__file__)} <= {*checked}
    for path in checked:
        text = path.read_bytes().decode(errors="replace")
        assert not fetched(text), f"{path.relative_to(ROOT)} would fetch {fetched(text)}"


def test_hints_name_what_is_missing() -> None:
    assert zbus.cli._HINT.endswith(": pip install click rich")
    assert {re.split(r"\W", one)[0] for one in project()["optional-dependencies"]["cli"]} == {"click", "rich"}


def test_the_extras_refer_to_no_other_distribution() -> None:
    table = project()
    assert table["name"] == NAME
    everything = [one for extra in table["optional-dependencies"].values() for one in extra]
    assert [one for one in everything if one.startswith("zbus")] == [
        f"{NAME}[cli,metrics,nats,plot,record,typed,web]"
    ]
