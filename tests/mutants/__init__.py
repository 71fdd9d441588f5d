"""Mutants of the package: faults that its tests must catch. `tools/mutants` puts them in, one at a time.

Each list is of one part of the package. `test_mutants.py` holds them to the code of today: whoever changes
a line of which there is a mutant changes that too.
"""

from __future__ import annotations

from . import (
    coalescing,
    directory,
    linking,
    links,
    numbers,
    observing,
    process,
    protocol,
    receiving,
    recording,
    reporting,
    seeing,
    sending,
    surroundings,
    tails,
    users,
    waiting,
)
from .mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: list[Mutant] = [
    *receiving.MUTANTS,
    *sending.MUTANTS,
    *coalescing.MUTANTS,
    *links.MUTANTS,
    *linking.MUTANTS,
    *directory.MUTANTS,
    *process.MUTANTS,
    *reporting.MUTANTS,
    *waiting.MUTANTS,
    *protocol.MUTANTS,
    *surroundings.MUTANTS,
    *seeing.MUTANTS,
    *tails.MUTANTS,
    *users.MUTANTS,
    *numbers.MUTANTS,
    *observing.MUTANTS,
    *recording.MUTANTS,
]
