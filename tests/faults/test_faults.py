"""Every fault in a quick form: what is lost, what leaks, which error is raised. Not how fast it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import zbus

from .__main__ import CASES, SEED, main, run
from .harness import FAIL, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", CASES)
def test_fault(number: int) -> None:
    rows = list(run(number, SEED, quick=True))
    broken = {f"{row.number} {row.fault}": row.broken for row in rows if row.verdict == FAIL}
    assert not broken
    if all(row.verdict == "not run" for row in rows):
        pytest.skip(rows[0].figures[0])


def test_a_row_fails_by_a_claim_that_does_not_hold_and_by_a_figure_beyond_its_limit() -> None:
    for strict, verdicts in ((True, [FAIL, FAIL, FAIL]), (False, [FAIL, "pass", FAIL])):
        rows = [Row(1, "fault", strict) for _ in range(3)]
        rows[0].equal("lost", 1, 0)
        rows[1].at_most("took", 2.0, 1, "s")
        rows[2].at_most("memory", 2.0, 1, "MiB", speed=False)
        assert [row.verdict for row in rows] == verdicts


def test_a_case_that_breaks_down_is_a_row_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_case(stage: object) -> None:
        raise AssertionError("no answer")

    monkeypatch.setitem(CASES, 1, broken_case)
    [row] = run(1, SEED, quick=True)
    assert row.verdict == FAIL
    assert "no answer" in row.broken[0]
    assert main(["--only", "1", "--quick"]) == 1


def test_the_page_shows_every_fault() -> None:
    shown = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    assert shown == set(CASES)


def test_no_time_out_reads_the_wall_clock() -> None:
    """Only the age of leftover files is told by it, and that is a day, more than clocks are set by.

    The others show the times of events and looks, or ages that follow from them; `nulls` knows the types.
    """
    package = Path(zbus.__file__).parent
    found = {
        str(path.relative_to(package)): re.findall(
            r"\btime\.(?:time|localtime|gmtime)\(|\bdatetime\b", path.read_text()
        )
        for path in package.rglob("*.py")
    }
    shown = {
        "cli/event_lines.py",
        "cli/ls.py",
        "cli/measuring.py",
        "cli/record.py",
        "cli/top_table.py",
        "links/headers.py",
        "observe/snapshot.py",
        "observe/tap.py",
        "protocol/nulls.py",
        "receiving/latest.py",
        "receiving/queue.py",
        "receiving/source.py",
        "web/feed.py",
    }
    found = {name: uses for name, uses in found.items() if uses and name not in shown}
    assert found == {"roster/reaping.py": ["time.time("]}
