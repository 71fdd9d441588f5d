"""The parts of a run: the vectors, the random cases and the live matrix of some peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from . import differential, vectors
from .driver import Broken
from .manifest import Manifest
from .results import FAIL, Result
from .session import Session

__all__ = ["ended", "run_differential", "run_vectors"]


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
