"""No interleaving of the join protocol loses an event; every broken rule of order is found out.

`docs/spec/model.md` says what that means, and holds the figures that are compared here: so nothing was
explored that is not there, and nothing less.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .checker import explore
from .joins import Joins
from .mutants import MUTANTS, UNNEEDED, Mutant

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "model.md"

# The letters of `may happen`: see `Joins`. The page describes each scene under the same name.
SCENES: dict[str, dict[str, Any]] = {
    "two and two": {"publishers": 2, "subscribers": 2, "ends": "lkp"},
    "second subscription": {"publishers": 2, "subscribers": 1, "joins": 2, "ends": "lkp"},
    "two second subscriptions": {"publishers": 1, "subscribers": 2, "joins": 2, "ends": "lkp"},
    "one topic twice": {"publishers": 1, "subscribers": 1, "joins": 2, "prefixes": (1, 1), "ends": "clkp"},
    "two senders in full": {"publishers": 2, "subscribers": 1, "ends": "lkp", "reduced": False},
    "two receivers in full": {"publishers": 1, "subscribers": 2, "ends": "lkp", "reduced": False},
    "second subscription in full": {
        "publishers": 1,
        "subscribers": 1,
        "joins": 2,
        "ends": "lkp",
        "reduced": False,
    },
    "one topic twice in full": {
        "publishers": 1,
        "subscribers": 1,
        "joins": 2,
        "prefixes": (1, 1),
        "ends": "clkp",
        "reduced": False,
    },
}


def table(first: str) -> dict[str, list[str]]:
    """Return the rows of the page's table whose first column is called `first`, by their first cell."""
    lines = PAGE.read_text(encoding="utf-8").partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return {name: cells for name, *cells in rows}


def name_of(mutant: Mutant) -> str:
    return mutant.name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", SCENES)
def test_no_interleaving_loses_an_event(scene: str) -> None:
    result = explore(Joins(**SCENES[scene]))
    assert result.fault == "", "\n".join(result.trace)
    *_, states, transitions = table("scene")[scene]
    assert (f"{result.states:,}", f"{result.transitions:,}") == (states, transitions)


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_broken_rule_is_found_out(mutant: Mutant) -> None:
    result = explore(mutant.model())
    assert result.fault.startswith(mutant.fault)
    clause, fault, steps, _ = table("what is broken")[mutant.name]
    assert (clause, fault, steps) == (mutant.clause, mutant.fault, str(len(result.trace)))


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_what_the_reductions_leave_out_hides_no_fault(mutant: Mutant) -> None:
    assert explore(mutant.model(reduced=True)).fault.startswith(mutant.fault)


@pytest.mark.parametrize("mutant", UNNEEDED, ids=name_of)
def test_a_rule_that_no_promise_of_the_model_needs(mutant: Mutant) -> None:
    result = explore(mutant.model())
    assert result.fault == ""
    clause, states, _ = table("what else is broken")[mutant.name]
    assert (clause, states) == (mutant.clause, f"{result.states:,}")


def test_the_page_lists_just_what_is_explored() -> None:
    assert list(table("scene")) == list(SCENES)
    assert list(table("what is broken")) == [mutant.name for mutant in MUTANTS]
    assert list(table("what else is broken")) == [mutant.name for mutant in UNNEEDED]
