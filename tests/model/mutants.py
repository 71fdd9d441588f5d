"""Mutants: the protocol with one rule of order broken, and what must go wrong then.

Each is explored in full, without any reduction, in the smallest scene that shows its fault. A mutant in
which nothing goes wrong says that the rule is not needed for what the model promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from .joins import Joins
from .rules import PROTOCOL, Rules

__all__ = ["MUTANTS", "UNNEEDED", "Mutant"]

LOST = "an event is lost"
LET_GO = "a live ingress is disconnected"
TAKEN_FOR_DEAD = "a live ingress is taken for dead"
SLIPPED = "an intact link shows less than it has shown"
TWICE = "an event is delivered twice"
DEADLOCK = "deadlock"
LIVELOCK = "livelock"

_SMALLEST: Mapping[str, Any] = {"publishers": 1, "subscribers": 1}


class Mutant(NamedTuple):
    """A broken rule: the clause it stands in, how it is broken, where to look, and what that shows."""

    name: str
    clause: str
    rules: Rules
    fault: str
    scene: Mapping[str, Any] = _SMALLEST

    def model(self, *, reduced: bool = False) -> Joins:
        """Return the scene with the rule broken."""
        return Joins(**{**_SMALLEST, **self.scene}, rules=self.rules, reduced=reduced)


def _broken(*rules: str) -> Rules:
    return PROTOCOL.breaking(*rules)


_AGAIN = {"joins": 2}
_PAIR = {"subscribers": 2}
_LEAVING = {"ends": "l"}
_KILLED = {"ends": "k"}
_CLOSING = {"ends": "c", "joins": 2}
_REWRITING = {"ends": "c", "joins": 2, "lenient": True}
_LENIENT = {"joins": 2, "lenient": True}
_ALL = {"ends": "lkp", "joins": 2}
_ALL_PAIR = {"ends": "lkp", "subscribers": 2}
_ALL_TWO = {"ends": "lkp", "publishers": 2}
# The first epoch has an entry of its own; the second takes it over.
_RENAMING = PROTOCOL.without("old entry").replaced("entry", "first entry", "renamed entry")
_NAMED_EARLY = PROTOCOL.replaced("name", "name too early", "listen")
_ROB = ("rob entries", "rob socket", "rob token")

MUTANTS = (
    # The order of writing.
    Mutant("the token is written before the entry", "R11", PROTOCOL.moved("token", "entry"), LOST),
    Mutant("subscribe returns before the token is written", "R16", PROTOCOL.moved("return", "token"), LOST),
    Mutant("the entry is renamed to the new epoch", "R12", _RENAMING, LOST, _AGAIN),
    Mutant(
        "the old entry goes before the new one", "R12", PROTOCOL.moved("old entry", "entry"), LOST, _AGAIN
    ),
    Mutant("the old entry goes before the token", "R12", PROTOCOL.moved("old entry", "token"), LOST, _AGAIN),
    Mutant("the entry is written before the socket", "R16", PROTOCOL.moved("entry", "name"), TAKEN_FOR_DEAD),
    Mutant("the socket has its name before it listens", "R9", _NAMED_EARLY, TAKEN_FOR_DEAD, _PAIR),
    # The order in the pipes.
    Mutant("the barrier is not awaited", "R16", PROTOCOL.without("await barrier"), LOST),
    Mutant("a connection gets the sentinel first", "R14", _broken("byte order"), LOST),
    Mutant("the channel holds the sentinel", "R16", _broken("sentinel outlives channel"), DEADLOCK, _CLOSING),
    Mutant(
        "the old sentinel goes before the new one", "R15", PROTOCOL.moved("unmark", "mark"), SLIPPED, _AGAIN
    ),
    # The order of reading.
    Mutant("the token is read after the listing", "R11", _broken("token before listing"), LOST),
    Mutant("a listing is not repeated", "R13", _broken("repeat listing"), LET_GO, _AGAIN),
    Mutant(
        "neither is a listing repeated nor the token checked",
        "R13, R20",
        _broken("repeat listing", "check token again"),
        LOST,
        _LENIENT,
    ),
    Mutant("the token is not compared before a send", "R20", _broken("compare"), LOST),
    Mutant("the sentinel is not awaited", "R20", _broken("await sentinel"), LOST),
    Mutant(
        "the last token read counts as the one of the listing", "R20", _broken("token of the listing"), LOST
    ),
    Mutant("the lowest epoch counts", "R7", _broken("highest epoch"), LOST, _AGAIN),
    Mutant("only awaited sentinels are recorded", "R20", _broken("record every sentinel"), SLIPPED, _AGAIN),
    Mutant("a second connection to one ingress", "R19", _broken("one connection"), TWICE, _AGAIN),
    # Leaving and dying.
    Mutant("no listing while waiting", "R20", _broken("list while waiting"), LIVELOCK, _LEAVING),
    Mutant("a vanished ingress is not disconnected", "R20", _broken("let go"), LIVELOCK, _LEAVING),
    Mutant("no look at who is alive while waiting", "R20", _broken("bury while waiting"), DEADLOCK, _KILLED),
    Mutant("removal without a token", "R27", _broken("token after removal"), LIVELOCK, _KILLED),
    Mutant("removal without a probe", "R27", _broken("probe before removal"), TAKEN_FOR_DEAD),
    # What the specification allows, and should not.
    Mutant("an entry is replaced by a rename", "R8", replace(PROTOCOL, close=("rewrite",)), LET_GO, _CLOSING),
    Mutant("the same, and what that loses", "R8", replace(PROTOCOL, close=("rewrite",)), LOST, _REWRITING),
    Mutant(
        "an entry is replaced by a rename, then the token is written",
        "R8",
        replace(PROTOCOL, close=("rewrite", "token")),
        LOST,
        _REWRITING,
    ),
)

# Rules whose breach shows no fault: the page says what they are good for.
UNNEEDED = (
    Mutant("the sentinel does not wait for the probe", "R16", PROTOCOL.without("await sentinel"), "", _ALL),
    Mutant("the token is not checked after settling", "R20", _broken("check token again"), "", _ALL),
    Mutant(
        "a listing is not repeated: is an event lost?", "R13", _broken("repeat listing"), "", _ALL | _LENIENT
    ),
    Mutant("connected without a probe", "R20", _broken("probe"), "", _ALL),
    Mutant("no one looks for leftovers", "R28", PROTOCOL.without("look", *_ROB), "", _ALL_PAIR),
    Mutant(
        "no token when leaving", "R18", replace(PROTOCOL, leave=("entries", "socket", "end")), "", _ALL_TWO
    ),
    Mutant("closed first when leaving", "R18", replace(PROTOCOL, leave=("end",)), "", _ALL_TWO),
)
