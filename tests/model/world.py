"""The state of the model: two kinds of processes, the directory, and the connections between them.

Sets of small numbers are bits of an `int`, so that a state is a tuple of tuples of numbers: cheap to hash
and to compare. Topics are bits too: a prefix 1 or 2, the sentinel of epoch 1 or 2; a message on a pipe is
the topic, negative to unsubscribe it, and 0 is a barrier.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "ABSENT",
    "BARRIER",
    "CLOSE",
    "DEAF",
    "DIAL",
    "GONE",
    "HOME",
    "IDLE",
    "JOIN",
    "KNOWN",
    "LATE",
    "LEAVE",
    "LINK",
    "LISTED",
    "LISTENS",
    "LOST",
    "NO_LINK",
    "OUT",
    "SCAN",
    "SETTLED",
    "STABLE",
    "UP",
    "WAIT",
    "Link",
    "Pub",
    "State",
    "Sub",
    "arrivals",
    "epoch_of",
    "sentinel",
]

# What a subscriber is at.
OUT, HOME, JOIN, CLOSE, LEAVE, GONE = range(6)
# Its socket file; DEAF is bound but refuses, as between bind and listen.
ABSENT, DEAF, LISTENS = range(3)
# What a publisher is at.
IDLE, SCAN, LATE, LINK, WAIT = range(5)
# A connection: connecting, accepted, or at an end.
DIAL, UP, LOST = range(3)
# Which remembered values still equal the token. Values never come back (collisions are left out), so
# "equal or not" is all that matters of a token.
KNOWN, LISTED, STABLE = 1, 2, 4
SETTLED = 8  # not a token: has settled at least once, for a mutant

BARRIER = 0
_FIRST_SENTINEL = 4


def sentinel(epoch: int) -> int:
    """Return the topic that tells that `epoch` has arrived."""
    return _FIRST_SENTINEL << (epoch - 1)


def epoch_of(topic: int) -> int:
    """Return the epoch of a sentinel, 0 for any other topic."""
    return (topic // _FIRST_SENTINEL).bit_length()


class Sub(NamedTuple):
    """A subscribing process with its ingress, and what the directory holds of it.

    `at` is the position in the script of `task`; `entries` are epochs; `front` is what the forwarder has
    told its connections; `back` the channels whose prefix it knows; `pipes` lead to it, one for each
    channel and the last for the marker; `open` are the channels whose subscribe() has returned.
    """

    task: int = OUT
    at: int = 0
    epoch: int = 0
    socket: int = ABSENT
    entries: int = 0
    front: int = 0
    back: int = 0
    pipes: tuple[tuple[int, ...], ...] = ((), (), ())
    open: int = 0

    @property
    def answers(self) -> bool:
        """Whether a probe finds it alive (R26)."""
        return self.socket == LISTENS and self.task != GONE

    @property
    def stays(self) -> bool:
        """Whether it lives and has not begun to leave: nobody may take it for dead."""
        return self.task not in (LEAVE, GONE)

    def gone(self) -> Sub:
        """Return what is left of it once its process has ended: its files."""
        return Sub(GONE, socket=self.socket, entries=self.entries)


class Link(NamedTuple):
    """A publisher's connection to one ingress.

    `want` is the listed epoch, 0 if there is no connection; `fifo` holds what is under way; `held` the
    prefixes in force at the publisher's end; `twice` says that there is a second connection.
    """

    want: int = 0
    stage: int = DIAL
    fifo: tuple[int, ...] = ()
    held: int = 0
    shown: int = 0
    twice: bool = False

    def sent(self, message: int) -> Link:
        """Return the link with one more message under way, unless it makes no difference there."""
        *_, (held, shown, _) = arrivals(self)
        if _arrive(held, shown, message) == (held, shown):
            return self
        return self._replace(fifo=(*self.fifo, message))


NO_LINK = Link()


class Pub(NamedTuple):
    """A publishing process.

    `must` and `maybe` are the entries, for each ingress, that a listing in progress will or may show;
    `todo` the epochs of listed ingresses that have no link yet; `prey` the ingress that it is removing
    as dead and how far it has come; `due` the channels that must get the event it is about to send.
    """

    task: int = IDLE
    same: int = 0
    must: tuple[int, ...] = ()
    maybe: tuple[int, ...] = ()
    todo: tuple[int, ...] = ()
    prey: tuple[int, ...] = ()
    links: tuple[Link, ...] = ()
    due: tuple[int, ...] = ()


class State(NamedTuple):
    """Everything."""

    subs: tuple[Sub, ...]
    pubs: tuple[Pub, ...]

    def sub(self, number: int, sub: Sub) -> State:
        """Put a subscriber in its place."""
        return State((*self.subs[:number], sub, *self.subs[number + 1 :]), self.pubs)

    def pub(self, number: int, pub: Pub) -> State:
        """Put a publisher in its place."""
        return State(self.subs, (*self.pubs[:number], pub, *self.pubs[number + 1 :]))

    def told(self) -> State:
        """Write the token: no value that somebody remembers equals it any more."""
        pubs = tuple(pub._replace(same=pub.same & SETTLED) if pub.same else pub for pub in self.pubs)
        return State(self.subs, pubs)

    def listing(self, number: int, entries: int) -> State:
        """Add and remove entries of one ingress.

        A listing in progress may show what changes meanwhile, or not: POSIX leaves it open.
        """
        sub = self.subs[number]
        return self.sub(number, sub._replace(entries=entries)).blurred(number, sub.entries ^ entries)

    def blurred(self, number: int, changed: int) -> State:
        """Let listings in progress be uncertain about some entries of one ingress."""
        pubs = tuple(_blur(pub, number, changed) if pub.task == SCAN else pub for pub in self.pubs)
        return State(self.subs, pubs)

    def linked(self, number: int, pub: int, link: Link) -> State:
        """Put a connection in its place."""
        links = self.pubs[pub].links
        new = (*links[:number], link, *links[number + 1 :])
        return self.pub(pub, self.pubs[pub]._replace(links=new))

    def ended(self, number: int) -> State:
        """End a subscribing process: its connections break, its files stay."""
        state = self.sub(number, self.subs[number].gone())
        for at, pub in enumerate(state.pubs):
            link = pub.links[number]
            if link.want and link.stage != LOST:
                # The kernel may still deliver what was under way: at best the link has shown this much.
                best = max(shown for _, shown, _ in arrivals(link))
                state = state.linked(number, at, Link(link.want, LOST, shown=best))
        return state


def _blur(pub: Pub, number: int, changed: int) -> Pub:
    must, maybe = list(pub.must), list(pub.maybe)
    must[number] &= ~changed
    maybe[number] |= changed
    return pub._replace(must=tuple(must), maybe=tuple(maybe))


def arrivals(link: Link) -> Iterator[tuple[int, int, int]]:
    """Yield (prefixes in force, epoch shown, messages taken) for all that may have come.

    That is nothing, one message, and so on to all that are under way.
    """
    held, shown = link.held, link.shown
    yield held, shown, 0
    for taken, message in enumerate(link.fifo, 1):
        held, shown = _arrive(held, shown, message)
        yield held, shown, taken


def _arrive(held: int, shown: int, message: int) -> tuple[int, int]:
    """Take in a message (R20.3): the highest sentinel counts, its removal sets it back to 0."""
    epoch = epoch_of(abs(message))
    if message > 0:
        return (held, max(shown, epoch)) if epoch else (held | message, shown)
    if epoch:
        return held, 0 if epoch == shown else shown
    return held & ~-message, shown
