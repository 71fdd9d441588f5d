"""The parts of a run that one peer plays alone, and its build."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from . import differential, vectors
from .commands import CommandFailed
from .driver import Broken
from .live import matrix
from .manifest import Manifest
from .results import FAIL, MISSING, PASS, Result
from .session import Session

__all__ = ["LIVE_OF_VARIANTS", "ended", "prove", "ready", "run_checks", "run_differential", "run_vectors"]

LIVE_OF_VARIANTS = ("block", "block-close", "loss-close", "strict", "joins", "stop-sub")


def prove(
    peer: Manifest, python: Manifest, parts: Container[str], root: Path, seed: int, full: bool
) -> list[Result]:
    """Run these parts for a peer that is built, in a folder of its own. The checks include its variants."""
    results: list[Result] = []
    place = root / peer.language
    place.mkdir()
    if "vectors" in parts:
        results += run_vectors(peer, place)
    if "differential" in parts and peer.language != "python":
        results += run_differential(peer, python, place, seed, full)
    if "checks" in parts:
        results += run_checks(peer)
        for other in peer.others():
            results += ready(other) or _prove_variant(other, python, root, seed, full)
    return results


def _prove_variant(peer: Manifest, python: Manifest, root: Path, seed: int, full: bool) -> list[Result]:
    """Run what a variant plays: a few live checks are enough for a sanitizer to see all of a library."""
    results = prove(peer, python, ("vectors", "differential"), root, seed, full)
    for number, name in enumerate(LIVE_OF_VARIANTS):
        for side, pair in enumerate(((peer, python), (python, peer))):
            place = root / peer.language / f"{number}{side}"
            place.mkdir()
            results.append(matrix.play(name, *pair, python, place))
    return results


def ready(peer: Manifest) -> list[Result]:
    """Build a peer. Return nothing if it can be run, else why not."""
    result = _ran(peer, "build", "build", peer.missing(), peer.make)
    return [] if result.verdict == PASS else [result]


def run_checks(peer: Manifest) -> Iterator[Result]:
    """Run the commands that find mistakes in the source of a peer."""
    for name in peer.check:
        yield _ran(peer, "checks", name, peer.missing_for(name), lambda name=name: peer.run_check(name))


def _ran(peer: Manifest, part: str, name: str, missing: list[str], action: Callable[[], None]) -> Result:
    if missing:
        return Result(peer.language, part, name, name, MISSING, f"needs {', '.join(missing)}")
    began = time.monotonic()
    verdict, message = PASS, ""
    try:
        action()
    except CommandFailed as error:
        verdict, message = FAIL, str(error)
    return Result(peer.language, part, name, name, verdict, message, time.monotonic() - began)


def run_vectors(peer: Manifest, root: Path) -> Iterator[Result]:
    """Run every vector through the driver of a peer, which must then end well."""
    with Session(peer, root) as session:
        yield from vectors.run(session)
        yield from ended(session, "vectors")


def run_differential(peer: Manifest, python: Manifest, root: Path, seed: int, full: bool) -> Iterator[Result]:
    """Run random cases through the drivers of a peer and of Python."""
    with Session(peer, root) as session, Session(python, root) as reference:
        yield from differential.run(session, reference, seed, full)
        yield from ended(session, "differential")


def ended(session: Session, part: str) -> Iterator[Result]:
    """End the driver of a session; yield a failure if it does not end well."""
    try:
        session.end()
    except Broken as error:
        yield Result(session.peer.language, part, "end", "end", FAIL, str(error))
