"""Runs the sequences of `vectors/loss.json` through a receiver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

__all__ = ["CASES", "Case", "Receiver", "read", "run"]

Case = dict[str, Any]


def read(name: str) -> Case:
    """Return the content of a file of vectors."""
    text = (Path(__file__).parent / "vectors" / name).read_text(encoding="utf-8")
    found: Case = json.loads(text)
    return found


_LOSS = read("loss.json")
CASES: list[Case] = _LOSS["cases"]
_DEFAULTS: Case = _LOSS["defaults"]


class Receiver(Protocol):
    """One channel under test.

    Attributes:
        gaps: the first and last number of each gap that the latest frame showed.
        lost, malformed: how many so far.
    """

    gaps: list[tuple[int, int]]
    lost: int
    malformed: int

    def receive(self, frame: bytes) -> list[Any]:
        """Return the events in a frame."""


def run(case: Case, make: Callable[..., Receiver]) -> None:
    """Give a receiver the frames of a case; raise AssertionError if it does not count as it must."""
    case = {**_DEFAULTS, **case}
    limit = {"limit": case["limit"]} if "limit" in case else {}
    peer = make(case["pattern"], case["kind_pattern"], case["announced"], case["joined"], **limit)
    for number, step in enumerate(case["steps"], 1):
        step = {**_DEFAULTS, **step}
        events = peer.receive(_frame(step))
        found = {
            "events": len(events),
            "gaps": [list(gap) for gap in peer.gaps],
            "lost": peer.lost,
            "malformed": peer.malformed,
        }
        expected = {key: step[key] for key in found}
        assert found == expected, f"{case['id']}, frame {number}: {case['why']}"


def _frame(step: Case) -> bytes:
    if "frame_hex" in step:
        return bytes.fromhex(step["frame_hex"])
    return "\0".join(step[field] for field in ("system", "kind", "path", "stamp", "data")).encode()
