"""Mutants of the second model: the accounting of losses with one rule broken, and what must go wrong then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .telling import Telling

__all__ = ["MUTANTS", "UNNEEDED", "Mutant"]

SILENT = "a loss is never told"
FALSE = "an event is told lost and received"
EARLY = "an event of before the join is told lost"
LIVELOCK = "livelock"


class Mutant(NamedTuple):
    """A broken rule: the clause it stands in, how it is broken, where to look, and what that shows."""

    name: str
    clause: str
    rule: str
    fault: str
    scene: Mapping[str, Any]

    def model(self) -> Telling:
        """Return the scene with the rule broken."""
        return Telling(**self.scene, broken=frozenset({self.rule}))


_TAIL: Mapping[str, Any] = {}
_THREE = {"sends": 3}
_HEAD = {"old": True, "others": 1, "ends": "g"}
_ORIGIN = {"origins": 1}
_GIVING_UP = {"ends": "g"}
_CLOSING = {"ends": "e"}
_BESIDE = {"beside": True}
_SLOW = {"old": True, "others": 1, "slow": True}

MUTANTS = (
    # Marks.
    Mutant("no marks at rest", "W46", "mark at rest", SILENT, _TAIL),
    Mutant("no twins", "W47", "twin", SILENT, _TAIL),
    Mutant("a twin overtakes the events before it", "W49", "twin behind the events", FALSE, _TAIL),
    Mutant("the receiver keeps no twins", "W49", "keep twins", SILENT, _TAIL),
    Mutant("a mark is passed on once more, and forgotten", "W49", "until accounted", SILENT, _THREE),
    Mutant("a mark is passed on before all is read", "W49", "until drained", LIVELOCK, _TAIL),
    Mutant("a later mark replaces one with another stamp", "W49", "by stamp", SILENT, _HEAD),
    Mutant("a mark sets back what is due", "W39", "a lower mark changes nothing", FALSE, _THREE),
    # Heads.
    Mutant("no mark with the old stamp before the next one", "W48", "mark the old stamp", SILENT, _HEAD),
    Mutant("that mark has the new stamp", "W48", "with its old stamp", SILENT, _HEAD),
    Mutant("that mark is not repeated", "R42", "doubt the old stamp", SILENT, _HEAD),
    Mutant("a channel does not remember where it began", "W40", "remember where it began", SILENT, _HEAD),
    Mutant("a mark counts for those who joined later", "W40", "only to whom it is meant", EARLY, _HEAD),
    Mutant("`settled` is that of the first settling", "W37", "settle anew for joiners", SILENT, _TAIL),
    Mutant("`settled` stays while nobody new is listed", "W37", "settle anew", SILENT, _SLOW),
    # Overflows.
    Mutant("an overflow goes unnoticed", "R57", "notice overflow", SILENT, _TAIL),
    Mutant("marks are not repeated after an overflow", "R57", "repeat after overflow", SILENT, _TAIL),
    Mutant("they are repeated before all is read", "R57", "wait for quiet", SILENT, _TAIL),
    Mutant("they are repeated when everybody has read all", "R57", "each link by itself", SILENT, _BESIDE),
    # Joiners given up, origins, closing.
    Mutant("a joiner that is back is told nothing", "R42", "tell who is back", SILENT, _GIVING_UP),
    Mutant("an old origin gets no mark", "R59", "mark the old origin", SILENT, _ORIGIN),
    Mutant("no marks before the close", "R59", "close marks", SILENT, _CLOSING),
    Mutant("the close does not wait after an overflow", "R59", "close waits", SILENT, _CLOSING),
)

# Rules whose breach shows no fault: the page says what they are good for.
UNNEEDED = (
    Mutant("a mark is forgotten while a channel joins", "W49", "keep while joining", "", {"slow": True}),
)
