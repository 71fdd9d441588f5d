"""The driver of the package passes every vector by the kit, and the kit reads manifests and reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .kit import __main__ as command
from .kit import languages
from .kit.live.matrix import pairs
from .kit.manifest import Manifest, read_all
from .kit.parts import run_vectors
from .kit.report import table, write_junit
from .kit.results import FAIL, MISSING, PASS, UNSUPPORTED, Result
from .kit.session import bus_root

PEERS = read_all()
RESULTS = [
    Result("go", "vectors", "json", "j001", PASS),
    Result("go", "vectors", "json", "j002", FAIL, "1e999 \0 is taken"),
    Result("go", "vectors", "numbers", "m001", UNSUPPORTED, "no reader"),
    Result("lua", "build", "build", "build", MISSING, "needs luajit"),
]


def test_the_package_passes_every_vector() -> None:
    with bus_root() as root:
        results = list(run_vectors(PEERS["python"], root))
    assert [result for result in results if result.verdict != PASS] == []
    assert len(results) > 950


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_a_manifest_says_how_to_start_and_why_not(peer: Manifest) -> None:
    assert peer.folder.name == peer.language
    assert peer.start
    assert all(len(reason) > 10 for reason in peer.unsupported.values())


def test_the_page_of_languages_says_what_the_manifests_say() -> None:
    page = languages.PAGE.read_text(encoding="utf-8")
    assert languages.limits(PEERS.values()) in page, "run tools/conform --docs --vectors"


def test_only_the_table_of_a_page_changes() -> None:
    page = "a\n<!-- x -->\n<!-- end of x -->\nb <!-- y -->\n\nc\n\n<!-- end of y --> d\n"
    once = languages.replaced(page, "x", "table")
    assert once == page.replace("<!-- x -->\n", "<!-- x -->\n\ntable\n\n")
    assert languages.replaced(once, "x", "table") == once
    with pytest.raises(ValueError, match="end of z"):
        languages.replaced(page, "z", "table")


def test_the_table_of_a_run_counts_each_side() -> None:
    live = [
        Result("go → lua", "live", "order", "order", PASS),
        Result("lua → go", "live", "order", "order", FAIL),
    ]
    go = languages.verdicts([replace(PEERS["python"], language="go")], [*RESULTS, *live]).splitlines()[-1]
    assert go == "| go | 1 pass, **1 fail**, 1 not supported | - | 1 pass | **1 fail** |"


def test_a_manifest_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "conform.toml").write_text('language = "x"\nstrat = []\n')
    with pytest.raises(ValueError, match="strat"):
        read_all(tmp_path)


def test_what_a_machine_has_not_is_missing(tmp_path: Path) -> None:
    there = str(tmp_path)
    absent = [f"{there}/not", "no-such-program", "pkg:no-such-library", "sh -c false", "no-such-program x"]
    peer = Manifest("x", tmp_path, needs=["sh", there, "sh -c true", *absent])
    assert peer.missing() == absent


def test_a_build_that_fails_is_a_failure(tmp_path: Path) -> None:
    peer = Manifest("x-broken", tmp_path, build=[["sh", "-c", "echo the compiler complains; exit 3"]])
    results: list[Result] = []
    assert command.ready({"x": peer}, results) == {}
    assert [result.verdict for result in results] == [FAIL]
    assert "the compiler complains" in results[0].message


def test_missing_fails_only_what_is_required() -> None:
    missing = [RESULTS[3]]
    assert not command.failed(missing, [])
    assert command.failed(missing, ["lua"])
    assert not command.failed(missing, ["go"])
    assert command.failed(RESULTS, [])
    assert not command.failed([RESULTS[0], RESULTS[2]], ["go"])


def test_a_table_never_counts_what_was_not_run_as_passed() -> None:
    head, go, lua = table(RESULTS)
    assert dict(zip(head, go, strict=True)) == {
        "": "go",
        "json": "1, 1 FAIL",
        "numbers": "1 not supported",
        "build": "",
    }
    assert dict(zip(head, lua, strict=True)) == {"": "lua", "json": "", "numbers": "", "build": "1 missing"}


def test_junit_has_every_case(tmp_path: Path) -> None:
    write_junit(RESULTS, tmp_path / "results.xml")
    suites = ElementTree.parse(tmp_path / "results.xml").getroot()
    assert [(suite.get("name"), suite.get("failures"), suite.get("skipped")) for suite in suites] == [
        ("go vectors", "1", "1"),
        ("lua build", "0", "1"),
    ]
    assert len(suites.findall(".//testcase")) == 4


def test_the_short_form_has_each_language_on_both_sides() -> None:
    peers = dict.fromkeys(["python", "c", "go", "lua"], PEERS["python"])
    chosen = pairs(peers, full=False)
    assert len(chosen) == len({*chosen}) == 1 + 6 + 3
    assert all({("python", name), (name, "python")} <= {*chosen} for name in peers)
    assert len(pairs(peers, full=True)) == 16
