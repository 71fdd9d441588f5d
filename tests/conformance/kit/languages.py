"""The table of docs/languages.md, written from the manifests and from the results of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .manifest import ROOT, Manifest
from .results import FAIL, MISSING, PARTS, PASS, Result, tell

__all__ = ["PAGE", "limits", "replaced", "verdicts", "write"]

PAGE = ROOT / "docs" / "languages.md"
_FACTS = "limits"
_RUN = "run"


def limits(peers: Iterable[Manifest]) -> str:
    """Return the table of what the manifests say."""
    rows = ["| language | library | does not support |", "|---|---|---|"]
    for peer in peers:
        cannot = "<br>".join(f"`{name}`: {_cell(why)}" for name, why in sorted(peer.unsupported.items()))
        folder = peer.folder.relative_to(ROOT).as_posix()
        rows.append(f"| {peer.language} | [{folder}](../{folder}) | {cannot or 'nothing'} |")
    return "\n".join(rows)


def verdicts(peers: Iterable[Manifest], results: list[Result]) -> str:
    """Return the table of a run: what passed, of the cases that a language took part in."""
    peers = list(peers)
    variants = {other.language for peer in peers for other in peer.others()}
    live = [result for result in results if result.part == "live"]
    live = [result for result in live if variants.isdisjoint(result.row.split(" → "))]
    rows = [
        "| language | vectors | random cases | checks | live, as publisher | live, as subscriber |",
        "|---|---|---|---|---|---|",
    ]
    for peer in peers:
        told = [_summary(_of(results, peer.language, part)) for part in PARTS[:2]]
        told.append(_checks(peer, results))
        told += [
            _summary([result for result in live if result.row.split(" → ")[side] == peer.language])
            for side in (0, 1)
        ]
        rows.append(f"| {peer.language} | {' | '.join(told)} |")
    return "\n".join(rows)


def _of(results: list[Result], row: str, part: str) -> list[Result]:
    return [result for result in results if (result.row, result.part) == (row, part)]


def _checks(peer: Manifest, results: list[Result]) -> str:
    """Return the names of the checks that passed, and of the variants; of the others, how they ended."""
    verdicts = {result.check: result.verdict for result in _of(results, peer.language, "checks")}
    for name, variant in zip(peer.variants, peer.others(), strict=True):
        verdicts[name] = tell([result for result in results if variant.language in result.row.split(" → ")])
    bold = {FAIL: "**{}: fail**", PASS: "{}"}
    return (
        ", ".join(bold.get(verdict, f"{{}}: {verdict}").format(name) for name, verdict in verdicts.items())
        or "-"
    )


def _summary(results: list[Result]) -> str:
    counts = {
        verdict: sum(result.verdict == verdict for result in results) for verdict in (PASS, FAIL, MISSING)
    }
    others = len(results) - sum(counts.values())
    told = [f"{counts[PASS]} pass"] if counts[PASS] else []
    told += [f"**{counts[FAIL]} fail**"] if counts[FAIL] else []
    told += [f"{others} not supported"] if others else []
    told += [f"{counts[MISSING]} missing"] if counts[MISSING] else []
    return ", ".join(told) or "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def replaced(page: str, name: str, table: str) -> str:
    """Return a page with another table between the two comments that name it."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no {begin} or no {end}")
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"


def write(peers: list[Manifest], results: list[Result], path: Path = PAGE) -> None:
    """Write both tables to the page; the one of the run only if there was a run of all parts."""
    page = replaced(path.read_text(encoding="utf-8"), _FACTS, limits(peers))
    if {*PARTS} <= {result.part for result in results}:
        page = replaced(page, _RUN, verdicts(peers, results))
    path.write_text(page, encoding="utf-8")
