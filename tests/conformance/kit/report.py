"""The table on the terminal, and JUnit XML."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from .results import FAIL, MISSING, PASS, UNSUPPORTED, Result

__all__ = ["progress", "show", "table", "write_junit"]

_FAILURES = 20
_TOLD_EVERY = 100
_MARKS = {PASS: "", FAIL: " FAIL", UNSUPPORTED: " not supported", MISSING: " missing"}


def table(results: list[Result]) -> list[list[str]]:
    """Return the rows of a table: what passed of each check of each peer. The first row is the head."""
    checks = list(dict.fromkeys(result.check for result in results))
    rows = [["", *checks]]
    for row in dict.fromkeys(result.row for result in results):
        cells = (
            [result.verdict for result in results if (result.row, result.check) == (row, check)]
            for check in checks
        )
        rows.append([row, *map(_cell, cells)])
    return rows


def _cell(verdicts: list[str]) -> str:
    counts = Counter(verdicts)
    if len(counts) < 2:
        return f"{len(verdicts)}{_MARKS[verdicts[0]]}" if verdicts else ""
    return ", ".join(f"{counts[verdict]}{mark}" for verdict, mark in _MARKS.items() if counts[verdict])


def progress(results: list[Result], count: int, total: int) -> None:
    """Print to stderr what failed of job `count` of `total`, and now and then how far the run is."""
    for result in results:
        if result.verdict == FAIL:
            print(_failure(result), file=sys.stderr, flush=True)
    if not count % _TOLD_EVERY:
        print(f"{count} of {total}", file=sys.stderr, flush=True)


def _failure(result: Result) -> str:
    return f"FAIL {result.row}, {result.check} {result.case}: {result.message}"


def show(results: list[Result]) -> None:
    """Print one table for each part, and what failed to stderr."""
    for part in dict.fromkeys(result.part for result in results):
        print(f"\n{part}")
        _print(table([result for result in results if result.part == part]))
    failed = [result for result in results if result.verdict == FAIL]
    for result in failed[:_FAILURES]:
        print(_failure(result), file=sys.stderr)
    if len(failed) > _FAILURES:
        print(f"and {len(failed) - _FAILURES} more failures; --junit FILE has them all", file=sys.stderr)
    for row, message in dict.fromkeys(
        (result.row, result.message) for result in results if result.verdict in (MISSING, UNSUPPORTED)
    ):
        print(f"{row}: {message}")
    counts = Counter(result.verdict for result in results)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_junit(results: list[Result], path: Path) -> None:
    """Write the results as JUnit XML: a suite for each row and part, a test case for each case."""
    root = ElementTree.Element("testsuites", name="tools/conform")
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.row, result.part), []).append(result)
    for (row, part), cases in groups.items():
        counts = Counter(result.verdict for result in cases)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{row} {part}",
            tests=str(len(cases)),
            failures=str(counts[FAIL]),
            skipped=str(counts[UNSUPPORTED] + counts[MISSING]),
            time=f"{sum(result.seconds for result in cases):.3f}",
        )
        for result in cases:
            _add(suite, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _add(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{result.row}.{result.part}.{result.check}",
        name=result.case,
        time=f"{result.seconds:.3f}",
    )
    if result.verdict == FAIL:
        ElementTree.SubElement(case, "failure", message=_printable(result.message)[:200]).text = _printable(
            result.message
        )
    elif result.verdict != PASS:
        ElementTree.SubElement(case, "skipped", message=f"{result.verdict}: {_printable(result.message)}")


def _printable(text: str) -> str:
    """Return text without what XML cannot carry."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)
