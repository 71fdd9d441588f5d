"""The state of the second model: one stream of events, and what became of each.

An event has a bit of its own, so a set of events is an `int`. Times are counted: whatever notes the time gets
the next number, so no two are equal.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ABSENT",
    "BESIDE",
    "CLOSED",
    "CLOSING",
    "CONNECTED",
    "EVENT",
    "KILLED",
    "LINK",
    "LISTED",
    "MARK",
    "NOTED",
    "OPEN",
    "OVER",
    "RUNS",
    "TWIN",
    "WRITTEN",
    "Channel",
    "Frame",
    "Link",
    "Pub",
    "State",
    "Wishes",
    "events",
]

# What a frame is.
EVENT, MARK, TWIN = range(3)
# What a publisher is at.
RUNS, CLOSING, CLOSED, KILLED = range(4)
# What a channel is at: its prefix is subscribed, its entry written, the time noted, the token written, and at
# last `subscribe` has returned.
ABSENT, CONNECTED, LISTED, NOTED, WRITTEN, OPEN, OVER = range(7)
# The links of a publisher: one is explored, the other leads to a process that is stopped for good.
LINK, BESIDE = 1, 2

_MOST_EVENTS = 8


def events(origin: int, first: int, last: int) -> int:
    """Return the set of the events `first` to `last` of one origin."""
    return ((1 << (last + 1)) - (1 << first)) << (origin * _MOST_EVENTS) if first <= last else 0


class Frame(NamedTuple):
    """An event, or a mark in either form, with its stamp."""

    what: int
    origin: int
    seq: int
    born: int
    settled: int
    first: int

    def told(self) -> int:
        """Return the events that this mark tells of by itself."""
        return events(self.origin, self.first, self.seq - 1)


class Channel(NamedTuple):
    """One channel of the subscribing process.

    `counts` is what its decoder knows of each origin: (origin, begin, next). `inactive` is as in `Link`.
    `got` and `told` are the events received and those told lost; `before` was sent before the time
    `announced` was noted, `early` before `subscribe` returned. `marked` are the events of the marks that have
    come for it.
    """

    stage: int = ABSENT
    epoch: int = 0
    announced: int = 0
    joined: int = 0
    queue: tuple[Frame, ...] = ()
    inactive: bool = False
    counts: tuple[tuple[int, int, int], ...] = ()
    got: int = 0
    told: int = 0
    before: int = 0
    early: int = 0
    marked: int = 0

    @property
    def connected(self) -> bool:
        """Whether the forwarder hands it what arrives."""
        return CONNECTED <= self.stage <= OPEN


class Pub(NamedTuple):
    """The publishing process.

    `known` says that the token has not moved since it settled, `listed` which epoch it has seen listed;
    `missed` is the epoch that it gave up, 0 for none. `settled`, `born`, `stamped` and `first` are times and
    a number of stamps, `marked` is the last number that a mark told of.

    `owed` are the marks to be sent, `current` the frames of the one that is being sent, and `doubt` those
    that a link in doubt may not have got. `full` are the links that have not been quiet since a frame found
    no room. `sent` are all events.
    """

    stage: int = RUNS
    known: bool = False
    settled: int = 0
    listed: int = 0
    missed: int = 0
    origin: int = 0
    born: int = 0
    seq: int = 0
    stamped: int = 0
    first: int = 1
    marked: int = 0
    owed: tuple[Frame, ...] = ()
    current: tuple[Frame, ...] = ()
    doubt: tuple[Frame, ...] = ()
    full: int = 0
    sent: int = 0

    @property
    def in_doubt(self) -> bool:
        """Whether a frame may be dropped for somebody without notice."""
        return bool(self.full or self.missed)

    @property
    def unmarked(self) -> bool:
        """Whether events were sent with the present stamp that no mark has told of."""
        return self.first <= self.seq != self.marked

    def mark(self) -> Frame:
        """Return the mark with the present stamp."""
        return Frame(MARK, self.origin, self.seq + 1, self.born, self.stamped, self.first)


class Link(NamedTuple):
    """The connection: `fifo` goes down to the forwarder, `up` are subscriptions under way to the publisher.

    In `up`, 0 subscribes the topic, -1 unsubscribes it, and more is the sentinel of an epoch. `held` says
    that the topic is subscribed at the publisher's end, `heard` that anything has come from there at all.
    `inactive` is the state of a queue that a frame did not fit into: libzmq skips it until it is told that
    half of it was read.
    """

    fifo: tuple[Frame, ...] = ()
    inactive: bool = False
    up: tuple[int, ...] = ()
    held: bool = False
    heard: bool = False
    shown: int = 0


class Wishes(NamedTuple):
    """How often at most the publisher sends, others join or leave elsewhere, and a new origin is taken."""

    sends: int = 0
    others: int = 0
    origins: int = 0


class State(NamedTuple):
    """Everything. `left` are the wishes that users may still have; see `Telling`.

    `epoch` is the latest that is listed. `twins` are the marks that the listener keeps, `probe` those on
    their way from it to the forwarder. `beside` is how many frames wait for the process that is stopped, -1
    if there is none.
    """

    pub: Pub
    link: Link
    channels: tuple[Channel, ...]
    left: Wishes
    beside: int = -1
    twins: tuple[Frame, ...] = ()
    probe: tuple[Frame, ...] = ()
    epoch: int = 0
    clock: int = 0

    def channel(self, number: int, channel: Channel) -> State:
        """Put a channel in its place."""
        return self._replace(channels=(*self.channels[:number], channel, *self.channels[number + 1 :]))

    def moved(self) -> State:
        """Write the token."""
        return self._replace(pub=self.pub._replace(known=False))
