"""The steps of the subscribing process of the second model: its forwarder, its listener, its channels."""

from __future__ import annotations

from collections.abc import Iterator

from .checker import Step
from .telling_counts import accounted, take
from .telling_sending import name
from .telling_world import (
    ABSENT,
    CONNECTED,
    LISTED,
    MARK,
    NOTED,
    OPEN,
    OVER,
    TWIN,
    WRITTEN,
    Channel,
    Frame,
    State,
)

__all__ = ["Receiving"]

_NEVER = 1_000
"""Later than any time of the model."""


class Receiving:
    """What the subscribing process may do next; `queue` is how many frames fit into that of a channel."""

    def __init__(self, broken: frozenset[str], queue: int, ends: str, *, slow: bool) -> None:
        self._broken = broken
        self._queue = queue
        self._closes = "c" in ends
        self._killed = "p" in ends
        self._slow = slow

    def private(self, state: State) -> Step[State] | None:
        """Return a step that nobody can see, and that is taken at once: a mark is forgotten."""
        for twin in state.twins:
            if all(self._accounted(each, twin) for each in state.channels if each.connected):
                return Step(f"{name(twin)} is forgotten", self._forget(state, twin))
        return None

    def _forget(self, state: State, twin: Frame) -> State:
        return state._replace(twins=tuple([each for each in state.twins if each != twin]))

    # What happens by itself.

    def must(self, state: State) -> Iterator[Step[State]]:
        """Yield what happens sooner or later."""
        yield from self._forward(state)
        yield from self._listen(state)
        for number, channel in enumerate(state.channels):
            if CONNECTED <= channel.stage < OPEN:
                step = self._join(state, number)
                while not self._slow and step.state.channels[number].stage in (LISTED, NOTED):
                    step = self._join(step.state, number)
                yield step
            elif channel.stage == OPEN and channel.queue:
                yield self._read(state, number)

    def _join(self, state: State, number: int) -> Step[State]:
        """Go one step on in a join (R16.6), once its prefixes and its sentinel have passed the forwarder."""
        channel, now = state.channels[number], state.clock + 1
        stage, who = channel.stage + 1, f"channel {number + 1}"
        channel = channel._replace(stage=stage)
        if stage == LISTED:
            epoch = state.epoch + 1
            link = state.link._replace(up=(*state.link.up, epoch))
            after = state.channel(number, channel._replace(epoch=epoch))._replace(link=link, epoch=epoch)
            return Step(f"{who} is listed", after)
        if stage == NOTED:
            channel = channel._replace(announced=now, before=state.pub.sent)
            return Step(f"{who} notes the time", state.channel(number, channel)._replace(clock=now))
        if stage == WRITTEN:
            return Step(f"{who} writes the token", state.channel(number, channel).moved())
        channel = channel._replace(joined=now, early=state.pub.sent)
        return Step(f"{who} is open", state.channel(number, channel)._replace(clock=now))

    def _read(self, state: State, number: int) -> Step[State]:
        channel = state.channels[number]
        frame, *queue = channel.queue
        if frame.what == MARK:
            frame = self._misread(channel, frame)
        taken = take(channel, frame)
        counts = taken.counts
        if frame.what == MARK and "a lower mark changes nothing" in self._broken:
            counts = tuple([(origin, begin, min(due, frame.seq)) for origin, begin, due in counts])
        fault = _wrong(channel, taken.got, taken.told)
        got, told = channel.got | taken.got, channel.told | taken.told
        channel = channel._replace(queue=tuple(queue), counts=counts, got=got, told=told)
        return Step(f"channel {number + 1} reads {name(frame)}", state.channel(number, channel), fault=fault)

    def _misread(self, channel: Channel, mark: Frame) -> Frame:
        if "only to whom it is meant" in self._broken:
            mark = mark._replace(settled=_NEVER)
        if "remember where it began" in self._broken:
            begun = [begin for origin, begin, _ in channel.counts if origin == mark.origin]
            mark = mark._replace(first=max([mark.first, *begun]))
        return mark

    def _forward(self, state: State) -> Iterator[Step[State]]:
        """Take the next frame of the link, or of the probe, and hand it to whom it is for."""
        if state.link.fifo:
            frame, *fifo = state.link.fifo
            after = state._replace(link=state.link._replace(fifo=tuple(fifo)))
            if frame.what == TWIN:
                yield Step(f"{name(frame)} is kept", self._keep(after, frame))
            else:
                yield from self._hand_out(after, frame, "passes")
        if state.probe:
            frame, *probe = state.probe
            yield from self._hand_out(state._replace(probe=tuple(probe)), frame, "passes again")

    def _hand_out(self, state: State, frame: Frame, how: str) -> Iterator[Step[State]]:
        states = [state]
        for number in range(len(state.channels)):
            states = [after for each in states for after in self._offer(each, number, frame)]
        for after in states:
            yield Step(f"{name(frame)} {how}", after)

    def _offer(self, state: State, number: int, frame: Frame) -> Iterator[State]:
        """Hand a frame to one channel, or drop it; a queue that was full may be skipped until it is empty."""
        channel = state.channels[number]
        if not channel.connected:
            yield state
            return
        room = len(channel.queue) < self._queue
        if channel.inactive and channel.queue:
            room = len(channel.queue) <= self._queue // 2
            yield state
        elif not room:
            yield state.channel(number, channel._replace(inactive=True))
        if room:
            queue = (*channel.queue, frame)
            yield state.channel(number, channel._replace(queue=queue, inactive=False))

    # The listener.

    def _keep(self, state: State, twin: Frame) -> State:
        """Keep a mark, in place of an older one of the same stream and stamp."""
        if self._killed:
            state = state._replace(channels=tuple([_marked(each, twin) for each in state.channels]))
        if "keep twins" in self._broken:
            return state
        settled = 0 if "by stamp" in self._broken else twin.settled
        kept = [
            each
            for each in state.twins
            if each.origin != twin.origin or (settled and each.settled != settled)
        ]
        return state._replace(twins=tuple(sorted((*kept, twin))))

    def _listen(self, state: State) -> Iterator[Step[State]]:
        """Send a mark once more when a channel that has not accounted for it has read everything else."""
        for twin in state.twins:
            mark = twin._replace(what=MARK)
            if mark not in state.probe and any(self._waits(each, twin) for each in state.channels):
                after = self._forget(state, twin) if "until accounted" in self._broken else state
                again = after._replace(probe=(*after.probe, mark))
                yield Step(f"{name(mark)} is sent again", again)

    def _waits(self, channel: Channel, twin: Frame) -> bool:
        drained = channel.stage == OPEN and (not channel.queue or "until drained" in self._broken)
        return drained and not self._accounted(channel, twin)

    def _accounted(self, channel: Channel, twin: Frame) -> bool:
        if channel.stage != OPEN:
            return "keep while joining" in self._broken
        return accounted(channel, self._misread(channel, twin))

    # What its user does.

    def may(self, state: State) -> Iterator[Step[State]]:
        """Yield what may happen."""
        joining = any(CONNECTED <= each.stage < OPEN for each in state.channels)
        for number, channel in enumerate(state.channels):
            if channel.stage == ABSENT and not joining:
                yield Step(f"channel {number + 1} subscribes", self._connect(state, number))
                break
        for number, channel in enumerate(state.channels):
            if channel.stage == OPEN and self._closes:
                yield Step(f"channel {number + 1} closes", self._disconnect(state, number))

    def _connect(self, state: State, number: int) -> State:
        first = not any(each.connected for each in state.channels)
        state = state.channel(number, Channel(CONNECTED))
        return state._replace(link=state.link._replace(up=(*state.link.up, 0))) if first else state

    def _disconnect(self, state: State, number: int) -> State:
        state = state.channel(number, Channel(OVER))
        last = not any(each.connected for each in state.channels)
        return state._replace(link=state.link._replace(up=(*state.link.up, -1))) if last else state


def _marked(channel: Channel, twin: Frame) -> Channel:
    if channel.stage < NOTED or twin.settled <= channel.announced:
        return channel
    return channel._replace(marked=channel.marked | twin.told())


def _wrong(channel: Channel, got: int, told: int) -> str:
    """Return what is wrong with what a channel receives, or is told, now."""
    if got & channel.got:
        return "an event is received twice"
    if told & channel.told:
        return "an event is told lost twice"
    if (got | channel.got) & (told | channel.told):
        return "an event is told lost and received"
    if told & channel.before:
        return "an event of before the join is told lost"
    return ""
