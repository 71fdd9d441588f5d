"""The kit of `tools/conform` fails drivers that make a mistake, and passes the plain one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ..conformance.kit import parts
from ..conformance.kit.differential import run as run_differential
from ..conformance.kit.driver import Broken, Driver
from ..conformance.kit.live import losses, matrix
from ..conformance.kit.live.stage import Stage
from ..conformance.kit.manifest import Manifest, read_all
from ..conformance.kit.parts import ended, prove
from ..conformance.kit.results import FAIL, PASS, UNSUPPORTED, Result
from ..conformance.kit.session import Session, bus_root
from ..conformance.kit.vectors import run as run_vectors

WRONG = Path(__file__).parents[1] / "conformance" / "wrong_driver.py"
PYTHON = read_all()["python"]


@pytest.fixture
def root() -> Iterator[Path]:
    with bus_root() as path:
        yield path


def wrong(mistake: str) -> Manifest:
    """Return a peer that makes a mistake."""
    return replace(PYTHON, language="wrong", start=[sys.executable, str(WRONG), mistake])


def vectors(peer: Manifest, root: Path) -> list[Result]:
    with Session(peer, root) as driver:
        results = list(run_vectors(driver))
        results += ended(driver, "vectors")
    return results


def failed(results: list[Result]) -> dict[str, str]:
    return {f"{result.check} {result.case}": result.message for result in results if result.verdict == FAIL}


MISTAKES = {
    "counts_no_loss": "loss",
    "takes_what_a_link_sends_again": "loss",
    "counts_malformed_twice": "wire",
    "takes_any_json": "json",
    "leaves_kinds_out": "patterns",
    "ignores_case": "patterns",
    "sends_any_name": "refuse",
    "sends_nan_as_null": "refuse",
    "says_unsupported": "numbers",
    "prints_garbage": "patterns",
    "prints_more_at_the_end": "end",
    "ends_with_an_error": "end",
    "dies": "wire",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_driver_fails_the_vectors(mistake: str, root: Path) -> None:
    checks = {name.split()[0] for name in failed(vectors(wrong(mistake), root))}
    assert MISTAKES[mistake] in checks


def test_a_driver_that_dies_is_shown_with_what_it_said(root: Path) -> None:
    messages = failed(vectors(wrong("dies"), root)).values()
    assert any("ended with 3" in message and "about to die" in message for message in messages)


def test_a_driver_that_hangs_is_given_up(root: Path) -> None:
    with Driver(wrong("hangs"), root) as driver:
        driver.ask("hello")
        with pytest.raises(Broken, match="no answer to decode"):
            driver.ask("decode", within=1.0)


def test_what_the_manifest_lists_is_not_supported(root: Path) -> None:
    results = vectors(replace(PYTHON, unsupported={"numbers": "no reader", "decode.limit": "fixed"}), root)
    told = {(result.check, result.message) for result in results if result.verdict == UNSUPPORTED}
    assert told == {("numbers", "no reader"), ("loss", "fixed")}
    assert not failed(results)


def test_a_variant_is_found_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "patience", 3.0)
    monkeypatch.setattr(parts, "LIVE_OF_VARIANTS", ["loss-batch"])
    variants = {"lax": {"start": [sys.executable, str(WRONG), "counts_no_loss"]}}
    results = list(prove(replace(PYTHON, variants=variants), PYTHON, ["checks"], root, 1, False))
    verdicts = {(result.row, result.part, result.verdict == FAIL) for result in results}
    assert ("python-lax", "vectors", True) in verdicts
    assert ("python-lax", "differential", True) in verdicts
    assert ("python → python-lax", "live", True) in verdicts
    assert ("python-lax → python", "live", False) in verdicts


DIFFERENT = [
    "counts_no_loss",
    "takes_what_a_link_sends_again",
    "takes_any_json",
    "leaves_kinds_out",
    "ignores_case",
    "counts_malformed_twice",
]


@pytest.mark.parametrize("mistake", [*DIFFERENT, "sends_any_name"])
def test_random_cases_find_it_too(mistake: str, root: Path) -> None:
    with Session(wrong(mistake), root) as driver, Session(PYTHON, root) as python:
        messages = failed(list(run_differential(driver, python, 1, False)))
    assert messages
    assert all(len(message) < 5000 for message in messages.values())


def test_random_cases_find_nothing_in_the_package(root: Path) -> None:
    with Session(replace(PYTHON, language="again"), root) as driver, Session(PYTHON, root) as python:
        assert not failed(list(run_differential(driver, python, 1, False)))


LIVE = {
    "hides_its_loss": "loss",
    "counts_no_loss": "loss-batch",
    "counts_a_loss_too_much": "loss-close",
    "hides_a_lost_event": "order",
    "joins_late": "strict",
    "ignores_block": "block",
    "ignores_the_kind": "topics",
    "ignores_the_limit": "sizes",
    "sends_bytes_as_text": "data",
    "batches_in_reverse": "batches",
    "leaves_a_file": "closed",
    "leaves_the_dead": "kill-sub",
    "stands_still_while_busy": "busy",
    "ends_at_once": "block-close",
    "stays_where_it_was": "remade",
    "sends_pings_only": "echo",
    "takes_one_less": "speed",
    "sends_no_empty_list": "data",
}


@pytest.mark.parametrize("mistake", LIVE)
def test_a_wrong_driver_fails_live(mistake: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "patience", 3.0)
    peer = wrong(mistake)
    assert matrix.play(LIVE[mistake], peer, peer, PYTHON, root).verdict == FAIL


@pytest.mark.parametrize("check", sorted({*LIVE.values()}))
def test_the_package_passes_the_same(check: str, root: Path) -> None:
    result = matrix.play(check, PYTHON, PYTHON, PYTHON, root)
    assert (result.verdict, result.message) == (PASS, "")


def test_an_origin_with_too_many_topics_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package begins a new origin after 65,536; here both sides think that it is 500.
    monkeypatch.setattr(losses, "MAX_TOPICS", 500)
    good, bad = (root / name for name in ("good", "bad"))
    for path, mistake in ((good, "has_small_origins"), (bad, "keeps_its_origin")):
        path.mkdir()
        peer = wrong(mistake)
        verdict = matrix.play("many", peer, PYTHON, PYTHON, path).verdict
        assert verdict == (PASS if path == good else FAIL)
