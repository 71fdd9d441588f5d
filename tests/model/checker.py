"""A small explicit-state model checker: it visits every state that a model can reach, breadth first.

A model names its initial state and, for each state, the steps that may come next. The checker looks for

- a *fault*: a step that breaks a promise says so itself;
- a *deadlock*: no step is left that must happen, and yet somebody is not at rest;
- a *livelock*: a circle of steps that must happen, so that nobody need ever come to rest.

A step that `may` happen (a crash, a new wish of a user) does not count for the last two: nobody can rely
on it. What is found first is the shortest way to it, since the search is breadth first.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Model", "Result", "Step", "explore"]

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """One atomic step: what happens, and the state after it.

    `may` marks what nobody can rely on; `fault` names the promise that this step breaks.
    """

    label: str
    state: S
    may: bool = False
    fault: str = ""


class Model(Protocol[S]):
    """What can be explored."""

    def initial(self) -> S:
        """Return the state in which everything begins."""

    def steps(self, state: S) -> Iterable[Step[S]]:
        """Return every step that may come next."""

    def at_rest(self, state: S) -> bool:
        """Return whether nobody is in the middle of something."""

    def canonical(self, state: S) -> S:
        """Return the one state that stands for all that differ from `state` by names only."""


@dataclass(frozen=True)
class Result:
    """What an exploration found: `fault` is empty if every promise holds in every state."""

    states: int
    transitions: int
    fault: str = ""
    trace: tuple[str, ...] = ()


class _Search(Generic[S]):
    """The states seen so far, numbered in the order of their discovery, and how each was reached."""

    def __init__(self, model: Model[S]) -> None:
        self.model = model
        first = model.canonical(model.initial())
        self.number = {first: 0}
        self.found = [first]
        self.parents = array("q", [-1])
        self.labels = [""]
        self.transitions = 0
        # The steps that must happen, as pairs, for the search for circles.
        self.sources = array("q")
        self.targets = array("q")

    def visit(self, label: str, state: S, source: int) -> int:
        """Return the number of `state`, a new one if it was not seen before."""
        state = self.model.canonical(state)
        number = self.number.setdefault(state, len(self.found))
        if number == len(self.found):
            self.found.append(state)
            self.parents.append(source)
            self.labels.append(label)
        return number

    def expand(self, source: int) -> Result | None:
        """Take every step from one state; return what is wrong there, if anything is."""
        stuck, state = True, self.found[source]
        for step in self.model.steps(state):
            self.transitions += 1
            if step.fault:
                return self.result(step.fault, source, step.label)
            if step.state is state:  # it changes nothing, and is no progress either
                continue
            target = self.visit(step.label, step.state, source)
            if not step.may:
                stuck = False
                self.sources.append(source)
                self.targets.append(target)
        if stuck and not self.model.at_rest(state):
            return self.result("deadlock", source)
        return None

    def circle(self) -> Result | None:
        """Return a state on a circle of steps that must happen, if there is one."""
        every = range(len(self.found))
        behind = _peel(every, self.sources, self.targets)
        within = behind and _peel(behind, self.targets, self.sources)
        return self.result("livelock", min(within)) if within else None

    def result(self, fault: str = "", end: int = 0, *last: str) -> Result:
        trace = list(last)
        while end > 0:
            trace.append(self.labels[end])
            end = self.parents[end]
        return Result(len(self.found), self.transitions, fault, tuple(reversed(trace)))


def _peel(nodes: Iterable[int], sources: array[int], targets: array[int]) -> set[int]:
    """Return what is left of `nodes` when those are taken away, again and again, that no edge leads to."""
    left = set(nodes)
    after: dict[int, list[int]] = {node: [] for node in left}
    incoming = dict.fromkeys(left, 0)
    for source, target in zip(sources, targets, strict=True):
        if source in left and target in left:
            incoming[target] += 1
            after[source].append(target)
    ready = [node for node, count in incoming.items() if not count]
    for node in ready:  # grows meanwhile
        for target in after[node]:
            incoming[target] -= 1
            if not incoming[target]:
                ready.append(target)
    return left.difference(ready)


def explore(model: Model[S], most_states: int = 5_000_000) -> Result:
    """Visit every reachable state of `model`; stop at the first fault.

    Raises:
        MemoryError: there are more than `most_states` states; the model is too large to be exhausted.
    """
    gc.disable()  # nothing here is garbage, and looking for it takes a tenth of the time
    try:
        return _explore(_Search(model), most_states)
    finally:
        gc.enable()


def _explore(search: _Search[S], most_states: int) -> Result:
    source = 0
    while source < len(search.found):
        if wrong := search.expand(source):
            return wrong
        if len(search.found) > most_states:
            raise MemoryError(f"more than {most_states:,} states")
        source += 1
    return search.circle() or search.result()
