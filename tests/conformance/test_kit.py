"""The driver of the package passes every vector by the kit, and the kit reads manifests and reports."""

from __future__ import annotations

import io
import sys
import threading
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .kit import __main__ as command
from .kit import languages
from .kit.commands import CommandFailed
from .kit.live.matrix import pairs
from .kit.lock import alone
from .kit.manifest import Manifest, read_all
from .kit.parts import ready, run_checks, run_vectors
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


def test_the_command_runs_a_part_and_tells_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = replace(PEERS["python"], language="mute", start=["true"])
    absent = replace(PEERS["python"], language="absent", needs=["no-such-program"])
    peers = {"python": PEERS["python"], "mute": mute, "absent": absent}
    monkeypatch.setattr(command, "read_all", lambda: peers)
    junit = tmp_path / "results.xml"
    options = ["--vectors", "--junit", str(junit)]
    assert command.main(["--only", "python,absent", *options]) == 0
    suites = ElementTree.parse(junit).getroot()
    assert [suite.get("name") for suite in suites] == ["absent build", "python vectors"]
    assert command.main(["--only", "python,absent", "--require", "absent", *options]) == 1
    assert command.main(["--only", "mute", *options]) == 1


def test_an_interrupted_command_shows_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "progress", interrupt)
    junit = tmp_path / "results.xml"
    assert command.main(["--only", "python", "--live", "closed", "--junit", str(junit)]) == 130
    assert len(ElementTree.parse(junit).getroot().findall(".//testcase")) == 1


def test_the_command_plays_the_live_checks_that_are_named(tmp_path: Path) -> None:
    junit = tmp_path / "results.xml"
    assert command.main(["--only", "python", "--live", "closed,order", "--junit", str(junit)]) == 0
    cases = ElementTree.parse(junit).getroot().findall(".//testcase")
    assert [case.get("classname") for case in cases] == [
        "python → python.live.closed",
        "python → python.live.order",
    ]


def test_a_live_check_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--live", "closed,blok"])
    assert "no check blok: there are order, data" in capsys.readouterr().err


def test_two_runs_do_not_build_one_peer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()  # reading what pytest captures would lose what is written at that moment
    monkeypatch.setattr(sys, "stderr", said)
    peers = [Manifest(f"x-locked-{name}", tmp_path, build=[["true"]]) for name in "ab"]
    entered = threading.Event()

    def second() -> None:
        with alone(reversed(peers)):
            entered.set()

    thread = threading.Thread(target=second)
    with alone(peers):
        thread.start()
        while "\n" not in said.getvalue():
            pass
        assert "waiting for another run, which uses" in said.getvalue()
        assert "x-locked-a" in said.getvalue()
        assert not entered.is_set()
        with alone([replace(peers[0], build=[])]):
            pass
    thread.join()
    assert entered.is_set()


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
    assert go == "| go | 1 pass, **1 fail**, 1 not supported | - | - | 1 pass | **1 fail** |"


def test_the_table_of_a_run_names_the_checks_and_the_variants() -> None:
    results = [
        Result("go", "checks", "vet", "vet", PASS),
        Result("go", "checks", "format", "format", FAIL),
        Result("go", "checks", "lint", "lint", MISSING),
        Result("go-race", "vectors", "json", "j001", PASS),
        Result("go-race", "vectors", "numbers", "m001", UNSUPPORTED),
        Result("python → go-race", "live", "block", "block", PASS),
        Result("go-new → python", "live", "block", "block", FAIL),
        Result("go-new", "vectors", "json", "j001", PASS),
        Result("go-old", "differential", "loss", "seed 1", FAIL),
    ]
    go = replace(PEERS["python"], language="go", variants={"race": {}, "old": {}, "new": {}, "none": {}})
    row = languages.verdicts([go], results).splitlines()[-1]
    told = "vet, **format: fail**, lint: missing, race, **old: fail**, **new: fail**, none: missing"
    assert row == f"| go | - | - | {told} | - | - |"


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
    (result,) = ready(peer)
    assert (result.part, result.verdict) == ("build", FAIL)
    assert "the compiler complains" in result.message


def test_a_check_passes_fails_with_what_it_said_or_is_missing(tmp_path: Path) -> None:
    peer = Manifest(
        "x",
        tmp_path,
        check={
            "clean": ["true"],
            "style": ["sh", "-c", "echo line 3 is too long; exit 1"],
            "lint": ["no-such-program", "x.c"],
        },
    )
    clean, style, lint = run_checks(peer)
    assert [(result.check, result.verdict) for result in (clean, style, lint)] == [
        ("clean", PASS),
        ("style", FAIL),
        ("lint", MISSING),
    ]
    assert "line 3 is too long" in style.message
    assert lint.message == "needs no-such-program"
    needy = replace(peer, check={"clean": ["true"]}, check_needs=["sh", "sh -c false"])
    assert [(result.verdict, result.message) for result in run_checks(needy)] == [
        (MISSING, "needs sh -c false")
    ]


def test_a_check_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    peer = Manifest("x", tmp_path, check={"slow": ["sh", "-c", "sleep 1000 & wait"]})
    # It returns once nothing holds the output of the command any more, the `sleep` included.
    with pytest.raises(CommandFailed, match=r"took more than 0\.2 s"):
        peer.run_check("slow", seconds=0.2)


def test_a_variant_is_a_peer_with_another_build(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    manifest = """
        language = "x"
        build = [["cc"]]
        start = ["{build}/x"]
        needs = ["cc"]
        check.warnings = ["cc", "-Wall"]
        [variants.safe]
        build = [["cc", "-fsafe"]]
        needs = ["no-such-library"]
        [unsupported]
        numbers = "no reader"
    """
    (folder / "conform.toml").write_text(manifest)
    peer = read_all(tmp_path)["x"]
    (safe,) = peer.others()
    assert (safe.language, safe.build, safe.missing()[-1]) == (
        "x-safe",
        [["cc", "-fsafe"]],
        "no-such-library",
    )
    assert (safe.start, safe.unsupported, safe.check) == (peer.start, peer.unsupported, {})
    assert safe.command() != peer.command()
    (folder / "conform.toml").write_text(manifest.replace("build = [[", "biuld = [[", 2))
    with pytest.raises(ValueError, match="biuld"):
        read_all(tmp_path)


def test_packages_are_installed_for_a_check_alone(tmp_path: Path) -> None:
    peer = Manifest("x", tmp_path, check={"style": ["sh"]})
    assert not peer.missing_at_all()
    assert replace(peer, check_needs=["no-such-program"]).missing_at_all()
    assert replace(peer, variants={"safe": {"needs": ["no-such-program"]}}).missing_at_all()


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
