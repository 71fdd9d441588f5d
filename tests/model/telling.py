"""The accounting of losses as a model: `docs/spec/model.md` says what it is good for."""

from __future__ import annotations

from collections.abc import Iterator

from .checker import Step
from .telling_receiving import Receiving
from .telling_sending import Sending
from .telling_world import (
    ABSENT,
    CLOSED,
    KILLED,
    OPEN,
    OVER,
    RUNS,
    Channel,
    Frame,
    Link,
    Pub,
    State,
    Wishes,
    events,
)

__all__ = ["Telling"]

_OLD = Pub(known=True, born=1, settled=2, stamped=2, seq=1, marked=1, sent=events(0, 1, 1))


class Telling:
    """A publisher of one topic, and a process that subscribes to it.

    Args:
        sends, others, origins: how often at most the publisher sends, other processes join or leave, and the
            publisher takes a new origin.
        channels: how many channels the subscribing process opens at most.
        queue: how many frames fit into the queue of a channel.
        capacity: how many fit into the publisher's queue for a link.
        ends: what may happen at any step: `c` a channel closes, `e` the publisher closes, `p` it is killed,
            `g` it gives up a joiner.
        beside: whether a process that is stopped for good is linked, too.
        old: whether the publisher has sent an event before.
        slow: whether others may do something between writing an entry, noting the time and writing the token.
        broken: the rules that are broken.
    """

    def __init__(
        self,
        *,
        sends: int = 2,
        others: int = 0,
        origins: int = 0,
        channels: int = 1,
        queue: int = 1,
        capacity: int = 2,
        ends: str = "",
        beside: bool = False,
        old: bool = False,
        slow: bool = False,
        broken: frozenset[str] = frozenset(),
    ) -> None:
        self._left = Wishes(sends, others, origins)
        self._channels = (Channel(),) * channels
        self._pub = _OLD if old else Pub()
        self._beside = 0 if beside else -1
        self._sending = Sending(broken, capacity, ends)
        self._receiving = Receiving(broken, queue, ends, slow=slow)

    def initial(self) -> State:
        """Return a bus to which nothing is subscribed."""
        return State(self._pub, Link(), self._channels, self._left, self._beside, clock=self._pub.settled)

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Yield every step that may come next."""
        if step := self._receiving.private(state):
            yield step
            return
        must = [*self._sending.must(state), *self._receiving.must(state)]
        yield from must
        if not must and (fault := self._verdict(state)):
            yield Step("all is read", state, fault=fault)
        for step in (*self._sending.may(state), *self._receiving.may(state), *self._others(state)):
            yield step._replace(may=True)

    def _others(self, state: State) -> Iterator[Step[State]]:
        if state.left.others and state.pub.stage == RUNS and state.pub.known:
            left = state.left._replace(others=state.left.others - 1)
            yield Step("somebody else joins or leaves", state._replace(left=left).moved())

    def at_rest(self, state: State) -> bool:
        """Return whether nothing is under way."""
        pub = state.pub
        if pub.stage < CLOSED and (pub.owed or pub.current):
            return False
        return not (state.link.fifo or state.probe or state.twins) and all(
            each.stage in (ABSENT, OPEN, OVER) and not each.queue for each in state.channels
        )

    def canonical(self, state: State) -> State:
        """Return the state with its times numbered afresh, since only their order counts."""
        return _renumbered(state)

    def _verdict(self, state: State) -> str:
        """Return what is wrong with a state in which everything was read."""
        pub = state.pub
        for channel in state.channels:
            # What was killed with a publisher is what no mark has told of yet.
            owed = channel.marked if pub.stage == KILLED else pub.sent
            # A publisher that closed cannot tell a joiner that was not back by then.
            out = pub.stage == CLOSED and 0 < pub.missed <= channel.epoch
            if channel.stage == OPEN and not out and owed & ~channel.early & ~(channel.got | channel.told):
                return "a loss is never told"
        return ""


def _renumbered(state: State) -> State:
    times = {0, state.pub.settled, state.pub.born, state.pub.stamped}
    every = (state.link.fifo, state.twins, state.probe, state.pub.owed, state.pub.current, state.pub.doubt)
    for frames in (*every, *(channel.queue for channel in state.channels)):
        for frame in frames:
            times.add(frame.born)
            times.add(frame.settled)
    for channel in state.channels:
        times.add(channel.announced)
        times.add(channel.joined)
    if len(times) == state.clock + 1:
        return state
    new = {time: number for number, time in enumerate(sorted(times))}

    def renew(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
        return tuple([each._replace(born=new[each.born], settled=new[each.settled]) for each in frames])

    pub, link = state.pub, state.link
    pub = pub._replace(
        settled=new[pub.settled],
        born=new[pub.born],
        stamped=new[pub.stamped],
        owed=renew(pub.owed),
        current=renew(pub.current),
        doubt=renew(pub.doubt),
    )
    channels = [
        each._replace(announced=new[each.announced], joined=new[each.joined], queue=renew(each.queue))
        for each in state.channels
    ]
    return state._replace(
        pub=pub,
        link=link._replace(fifo=renew(link.fifo)),
        channels=tuple(channels),
        twins=renew(state.twins),
        probe=renew(state.probe),
        clock=len(times) - 1,
    )
