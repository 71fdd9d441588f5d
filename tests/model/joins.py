"""The join protocol of `docs/spec/roster.md` as a model: `docs/spec/model.md` says what it is good for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

from .checker import Step
from .receiving import Receiving
from .rules import PROTOCOL, Rules
from .sending import Sending
from .world import GONE, HOME, IDLE, LISTED, NO_LINK, OUT, SCAN, STABLE, Pub, State, Sub

__all__ = ["Joins"]

_AT_REST = (OUT, HOME, GONE)


class Joins:
    """Some publishers and subscribers on one bus.

    Args:
        publishers, subscribers: how many processes there are.
        joins: how many channels a subscriber opens at most, 1 or 2.
        prefixes: what the two channels subscribe; equal for two channels of one topic.
        ends: what may happen at any step: `c` a channel closes, `l` a subscriber leaves, `k` one is
            killed, `p` a publisher is killed.
        rules: what peers do.
        lenient: that a live ingress is disconnected is no fault by itself, only what is lost by it.
        reduced: leave out what makes no difference, for the protocol itself: see the page. A mutant is
            explored in full.
    """

    def __init__(
        self,
        publishers: int,
        subscribers: int,
        *,
        joins: int = 1,
        prefixes: tuple[int, int] = (1, 2),
        ends: str = "",
        rules: Rules = PROTOCOL,
        lenient: bool = False,
        reduced: bool = True,
    ) -> None:
        self._counts = publishers, subscribers
        self._receiving = Receiving(rules, joins=joins, prefixes=prefixes, ends=ends)
        self._sending = Sending(rules, prefixes=prefixes, ends=ends, lenient=lenient, reduced=reduced)
        self._reduced = reduced

    def initial(self) -> State:
        """Return an empty bus."""
        publishers, subscribers = self._counts
        pub = Pub(links=(NO_LINK,) * subscribers)
        return State((Sub(),) * subscribers, (pub,) * publishers)

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield every step that may come next, each with the private ones that follow from it."""
        for step in self._all(state):
            yield self._run_on(step)

    def _all(self, state: State) -> Iterator[Step[State]]:
        if private := self._private(state):
            yield from private
            return
        for number in range(len(state.subs)):
            yield from self._receiving.steps(state, number)
        for number in range(len(state.pubs)):
            yield from self._sending.steps(state, number)

    def _private(self, state: State) -> tuple[Step[State], ...]:
        for number in range(len(state.subs)) if self._reduced else ():
            if private := self._receiving.private(state, number):
                return private
        return ()

    def _run_on(self, step: Step[State]) -> Step[State]:
        """Take the steps that nobody else can see together with the one before, while there is no choice."""
        while not step.fault and len(private := self._private(step.state)) == 1:
            [more] = private
            step = Step(f"{step.label}; {more.label}", more.state, step.may, more.fault)
        return step

    def at_rest(self, state: State) -> bool:
        """Return whether nobody waits: each send and subscribe that was begun has returned."""
        return all(sub.task in _AT_REST and not any(sub.pipes) for sub in state.subs) and all(
            pub.task == IDLE for pub in state.pubs
        )

    def canonical(self, state: State) -> State:
        """Return the least of the states that differ from `state` only by who is who, or by what is over."""
        if not self._reduced:
            return state
        state = State(state.subs, tuple([_tidy(pub, state.subs) for pub in state.pubs]))
        order = sorted(range(len(state.subs)), key=state.subs.__getitem__)
        if len(set(state.subs)) == len(order):
            return _renamed(state, order)
        return min(_renamed(state, each) for each in _ties(state.subs, order))


def _tidy(pub: Pub, subs: tuple[Sub, ...]) -> Pub:
    """Forget a listing that will be repeated, and a link that the next listing cannot but drop."""
    if pub.task == SCAN and not pub.same & STABLE:
        none = (0,) * len(subs)
        return pub._replace(must=none, maybe=none)
    if pub.task == IDLE or not pub.same & LISTED:
        for at, (link, sub) in enumerate(zip(pub.links, subs, strict=True)):
            if link.want and sub.task == GONE and not sub.entries and not (pub.maybe and pub.maybe[at]):
                pub = pub._replace(links=(*pub.links[:at], NO_LINK, *pub.links[at + 1 :]))
    return pub


def _ties(subs: tuple[Sub, ...], order: list[int]) -> Iterator[list[int]]:
    """Yield every order that sorts the subscribers, some of which are in the same state."""
    for each in permutations(order):
        if all(subs[left] <= subs[right] for left, right in pairwise(each)):
            yield list(each)


def _renamed(state: State, order: list[int]) -> State:
    """Give the subscribers new numbers; publishers have no name, so they just stand in order."""
    if order == sorted(order):
        return State(state.subs, tuple(sorted(state.pubs)))
    subs = tuple([state.subs[at] for at in order])
    return State(subs, tuple(sorted([_renumbered(pub, order) for pub in state.pubs])))


def _renumbered(pub: Pub, order: list[int]) -> Pub:
    rows = [
        tuple([row[at] for at in order]) if row else row for row in (pub.must, pub.maybe, pub.todo, pub.due)
    ]
    must, maybe, todo, due = rows
    prey = (order.index(pub.prey[0]), pub.prey[1]) if pub.prey else ()
    return Pub(pub.task, pub.same, must, maybe, todo, prey, tuple([pub.links[at] for at in order]), due)
