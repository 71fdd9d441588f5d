"""No interleaving leaves a loss untold, or tells a false one; every broken rule is found out.

`docs/spec/model.md` says what that means, and holds the figures that are compared here.
"""

from __future__ import annotations

from typing import Any

import pytest

from .checker import explore
from .telling import Telling
from .telling_mutants import MUTANTS, UNNEEDED, Mutant
from .test_joins import name_of, table

# The page describes each scene under the same name.
SCENES: dict[str, dict[str, Any]] = {
    "one publisher that ends": {"ends": "ep"},
    "an older stream": {"old": True, "others": 1, "slow": True},
    "a joiner given up": {"ends": "g", "capacity": 1},
    "a stopped process beside": {"ends": "e", "beside": True},
    "a new origin": {"origins": 1},
    "two channels": {"old": True, "channels": 2, "sends": 1, "others": 1, "ends": "c"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", SCENES)
def test_every_loss_is_told_and_none_that_is_not_one(scene: str) -> None:
    result = explore(Telling(**SCENES[scene]))
    assert result.fault == "", "\n".join(result.trace)
    *_, states, transitions = table("scene of losses")[scene]
    assert (f"{result.states:,}", f"{result.transitions:,}") == (states, transitions)


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_broken_rule_is_found_out(mutant: Mutant) -> None:
    result = explore(mutant.model())
    clause, fault, steps, _ = table("what is broken in the accounting")[mutant.name]
    assert (result.fault, clause, fault, str(len(result.trace))) == (
        mutant.fault,
        mutant.clause,
        mutant.fault,
        steps,
    )


@pytest.mark.parametrize("mutant", UNNEEDED, ids=name_of)
def test_a_rule_that_no_promise_of_the_model_needs(mutant: Mutant) -> None:
    result = explore(mutant.model())
    assert result.fault == ""
    clause, states, _ = table("what else is broken in the accounting")[mutant.name]
    assert (clause, states) == (mutant.clause, f"{result.states:,}")


def test_the_page_lists_just_what_is_explored() -> None:
    assert list(table("scene of losses")) == list(SCENES)
    assert list(table("what is broken in the accounting")) == [mutant.name for mutant in MUTANTS]
    assert list(table("what else is broken in the accounting")) == [mutant.name for mutant in UNNEEDED]
