"""The checker finds what is wrong with small models, by the shortest way, and visits all of a sound one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .checker import Step, explore


class Counter:
    """Counts to `last` by steps of 1 or 2, and says what a subclass wants of it."""

    last = 5

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        for more in (1, 2):
            if state + more <= self.last:
                yield Step(f"+{more}", state + more)

    def at_rest(self, state: int) -> bool:
        return state == self.last

    def canonical(self, state: int) -> int:
        return state


class Faulty(Counter):
    def steps(self, state: int) -> Iterator[Step[int]]:
        for step in super().steps(state):
            yield step._replace(fault="four" if step.state == 4 else "")


class Stuck(Counter):
    def at_rest(self, state: int) -> bool:
        return state > self.last


class Circling(Counter):
    def steps(self, state: int) -> Iterator[Step[int]]:
        yield from super().steps(state)
        if state == 3:
            yield Step("back", 1)


class Optional(Circling):
    """Its way back may be taken, but nobody can rely on it."""

    def steps(self, state: int) -> Iterator[Step[int]]:
        for step in super().steps(state):
            yield step._replace(may=step.label == "back")


class Modulo(Counter):
    """Never ends: what must happen goes round in three states."""

    last = 1_000_000

    def canonical(self, state: int) -> int:
        return state % 3


def test_what_holds_is_visited_to_its_end() -> None:
    result = explore(Counter())
    assert (result.states, result.transitions, result.fault) == (6, 9, "")


def test_a_fault_is_reached_by_the_shortest_way() -> None:
    result = explore(Faulty())
    assert (result.fault, result.trace) == ("four", ("+2", "+2"))


def test_an_end_without_rest_is_a_deadlock() -> None:
    result = explore(Stuck())
    assert (result.fault, result.trace) == ("deadlock", ("+1", "+2", "+2"))


def test_a_circle_of_steps_that_must_happen_is_a_livelock() -> None:
    result = explore(Circling())
    assert (result.fault, result.trace) == ("livelock", ("+1",))


def test_a_step_that_may_happen_is_no_livelock() -> None:
    result = explore(Optional())
    assert (result.states, result.transitions, result.fault) == (6, 10, "")


def test_nor_does_it_save_from_a_deadlock() -> None:
    class Hoping(Counter):
        def steps(self, state: int) -> Iterator[Step[int]]:
            return (step._replace(may=True) for step in super().steps(state))

    assert explore(Hoping()).fault == "deadlock"


def test_states_that_differ_by_names_only_are_one() -> None:
    result = explore(Modulo())
    assert (result.states, result.fault) == (3, "livelock")


def test_too_large_a_model_is_refused() -> None:
    class Endless(Counter):
        last = 1_000_000

    with pytest.raises(MemoryError, match="100 states"):
        explore(Endless(), most_states=100)
