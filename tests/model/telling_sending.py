"""The steps of the publishing process of the second model: events, marks, and its end."""

from __future__ import annotations

from collections.abc import Iterator

from .checker import Step
from .telling_world import (
    BESIDE,
    CLOSED,
    CLOSING,
    EVENT,
    KILLED,
    LINK,
    MARK,
    RUNS,
    TWIN,
    Frame,
    Link,
    Pub,
    State,
    events,
)

__all__ = ["Sending", "name"]


class Sending:
    """What the publisher may do next; `capacity` is how many frames fit into its queue for a link."""

    def __init__(self, broken: frozenset[str], capacity: int, ends: str) -> None:
        self._broken = broken
        self._capacity = capacity
        self._ends = ends

    # What happens by itself.

    def must(self, state: State) -> Iterator[Step[State]]:
        """Yield what happens sooner or later."""
        pub, link = state.pub, state.link
        if link.up:
            yield Step("a subscription reaches P", self._read(state))
        if pub.stage > CLOSING:
            return
        if link.inactive and len(link.fifo) <= self._capacity // 2:
            yield Step("P learns of room", state._replace(link=link._replace(inactive=False)))
        if pub.full & LINK and (not link.fifo or "wait for quiet" in self._broken):
            yield from self._quiet(state)
        if pub.owed or pub.current or (pub.unmarked and "mark at rest" not in self._broken):
            yield from self._look(state)
        elif pub.stage == CLOSING and (not pub.full & LINK or "close waits" in self._broken):
            yield Step("P closes its sockets", state._replace(pub=pub._replace(stage=CLOSED)))

    def _read(self, state: State) -> State:
        """Take in the first of the subscriptions under way; who is back gets its marks."""
        change, *up = state.link.up
        held = change == 0 if change <= 0 else state.link.held
        shown = max(state.link.shown, change)
        pub = state.pub
        if 0 < pub.missed <= shown and pub.stage <= CLOSING:
            pub = pub._replace(missed=0)
            pub = pub if "tell who is back" in self._broken else _owe_again(pub)
        return state._replace(
            pub=pub, link=state.link._replace(up=tuple(up), held=held, heard=True, shown=shown)
        )

    def _quiet(self, state: State) -> Iterator[Step[State]]:
        """Note that the link is quiet: it gets the marks again that it may have missed."""
        pub, link = state.pub, state.link
        if pub.full & BESIDE and "each link by itself" in self._broken:
            return
        pub = pub._replace(full=pub.full & ~LINK)
        if "repeat after overflow" not in self._broken:
            pub = _owe_again(pub)
        if "wait for quiet" not in self._broken:
            link = link._replace(inactive=False)
        yield Step("P finds its link quiet", state._replace(pub=pub, link=link))

    def _look(self, state: State) -> Iterator[Step[State]]:
        """Send the marks that are owed, as far as everybody has room for them.

        The link gets room in the end. Who is stopped does not, so the frame goes to the others at last.
        """
        after, sent = state, []
        while frame := _due(after := self._begun(after)):
            if not self._fits(after, frame):
                break
            sent.append(name(frame))
            after = _advanced(self._emit(after, frame))
        if sent:
            yield Step(f"P sends {', '.join(sent)}", after)
        elif frame:
            forced = _advanced(self._emit(after, frame))
            yield Step(f"P sends {name(frame)} to whom it fits", forced, after.beside != self._capacity)

    def _begun(self, state: State) -> State:
        """Begin with the next mark that is owed, unless one is being sent."""
        pub = state.pub
        if pub.unmarked and "mark at rest" not in self._broken:
            pub = pub._replace(owed=_merged((*pub.owed, pub.mark())), marked=pub.seq)
        if not pub.current and pub.owed:
            mark, *owed = pub.owed
            if mark.origin == pub.origin:
                mark = mark._replace(seq=pub.seq + 1)
            pub = pub._replace(owed=tuple(owed), current=self._frames(mark))
        return state._replace(pub=pub)

    def _frames(self, mark: Frame) -> tuple[Frame, ...]:
        return (mark,) if "twin" in self._broken else (mark, mark._replace(what=TWIN))

    # What its user does, and what happens to it.

    def may(self, state: State) -> Iterator[Step[State]]:
        """Yield what may happen."""
        pub = state.pub
        if pub.stage <= CLOSING and "p" in self._ends:
            yield from self._killed(state)
        if pub.stage != RUNS:
            return
        if state.left.sends:
            yield from self._send(state)
        if state.left.origins and pub.seq:
            yield Step("P takes a new origin", self._new_origin(state))
        if "e" in self._ends and pub.sent:
            yield Step("P begins to close", self._begin_to_close(state))

    def _begin_to_close(self, state: State) -> State:
        pub = state.pub._replace(stage=CLOSING)
        if "close marks" in self._broken:
            pub = pub._replace(owed=(), current=(), marked=pub.seq)
        return state._replace(pub=pub)

    def _killed(self, state: State) -> Iterator[Step[State]]:
        """Kill it: of what is on its way, the kernel has some part, and delivers it."""
        pub, fifo = Pub(stage=KILLED, sent=state.pub.sent), state.link.fifo
        for kept in range(len(fifo) + 1):
            link = state.link._replace(fifo=fifo[:kept], up=())
            yield Step(f"P is killed, {len(fifo) - kept} frames with it", state._replace(pub=pub, link=link))

    def _send(self, state: State) -> Iterator[Step[State]]:
        left = state.left._replace(sends=state.left.sends - 1)
        state = state._replace(left=left)
        if not state.pub.born:
            now = state.clock + 1
            state = state._replace(pub=state.pub._replace(born=now), clock=now)
        if state.pub.known:
            yield Step("P sends", self._emit_event(state))
        elif state.epoch in (state.link.shown, state.pub.missed):
            yield Step("P settles and sends", self._emit_event(self._settle(state)))
        elif "g" in self._ends:
            missed = state._replace(pub=state.pub._replace(missed=state.epoch))
            yield Step("P gives up S and sends", self._emit_event(self._settle(missed)))

    def _settle(self, state: State) -> State:
        """Note as of when everybody is known (W37)."""
        pub, now = state.pub, state.clock + 1
        joined = state.epoch > pub.listed
        kept = "settle anew" in self._broken and not joined and pub.settled
        never = "settle anew for joiners" in self._broken and pub.settled
        pub = pub._replace(known=True, listed=state.epoch)
        return state._replace(pub=pub if kept or never else pub._replace(settled=now), clock=now)

    def _emit_event(self, state: State) -> State:
        """Send one event; a mark with the former stamp goes before the first with the next one."""
        if state.pub.stamped != state.pub.settled:
            state = self._renew(state)
        pub = state.pub
        seq = pub.seq + 1
        frame = Frame(EVENT, pub.origin, seq, pub.born, pub.stamped, pub.first)
        pub = pub._replace(seq=seq, sent=pub.sent | events(pub.origin, seq, seq))
        return self._emit(state._replace(pub=pub), frame)

    def _renew(self, state: State) -> State:
        pub = state.pub
        if pub.unmarked and "mark the old stamp" not in self._broken:
            mark = pub.mark()
            if "with its old stamp" in self._broken:
                mark = mark._replace(settled=pub.settled, first=pub.seq + 1)
            state = state._replace(pub=pub._replace(marked=pub.seq))
            for frame in self._frames(mark)[-1:]:  # the twin suffices, and takes no room in a channel
                state = self._emit(state, frame)
            if state.pub.in_doubt and "doubt the old stamp" not in self._broken:
                state = state._replace(pub=_doubt(state.pub, mark))
        return state._replace(pub=state.pub._replace(stamped=pub.settled, first=pub.seq + 1))

    def _new_origin(self, state: State) -> State:
        """Number under a new origin (W35); the former one owes its marks."""
        pub = state.pub
        owed, doubt = (
            tuple([each._replace(seq=pub.seq + 1) if each.origin == pub.origin else each for each in marks])
            for marks in (pub.owed, pub.doubt)
        )
        if pub.unmarked and "mark the old origin" not in self._broken:
            owed = _merged((*owed, pub.mark()))
        pub = pub._replace(origin=pub.origin + 1, born=0, seq=0, stamped=0, first=1, marked=0)
        left = state.left._replace(origins=state.left.origins - 1)
        return state._replace(pub=pub._replace(owed=owed, doubt=doubt), left=left)

    # The sockets.

    def _gets(self, link: Link, frame: Frame) -> bool:
        return (link.heard if frame.what == TWIN else link.held) and not link.inactive

    def _fits(self, state: State, frame: Frame) -> bool:
        """Return whether the strict socket accepts a frame: every link that it would go to has room."""
        link = state.link
        full = self._gets(link, frame) and len(link.fifo) == self._capacity
        return not full and state.beside != self._capacity

    def _emit(self, state: State, frame: Frame) -> State:
        """Send a frame strictly; if there is no room, to whom it fits. Then every link is in doubt."""
        pub, link = state.pub, state.link
        if not self._fits(state, frame) and "notice overflow" not in self._broken:
            pub = pub._replace(full=LINK | BESIDE if state.beside >= 0 else LINK)
        if self._gets(link, frame):
            if frame.what == TWIN and "twin behind the events" in self._broken:
                state = state._replace(twins=(*state.twins, frame))
            elif len(link.fifo) < self._capacity:
                link = link._replace(fifo=(*link.fifo, frame))
            else:
                link = link._replace(inactive=True)
        if state.beside >= 0:
            state = state._replace(beside=min(state.beside + 1, self._capacity + 1))
        return state._replace(pub=pub, link=link)


def _due(state: State) -> Frame | None:
    return state.pub.current[0] if state.pub.current else None


def _advanced(state: State) -> State:
    """Go on to the next frame that is due; who is in doubt may have missed this one."""
    pub = state.pub
    sent, *current = pub.current
    if not current and pub.in_doubt:
        pub = _doubt(pub, sent)
    return state._replace(pub=pub._replace(current=tuple(current)))


def _owe_again(pub: Pub) -> Pub:
    """Owe the marks again that are in doubt, and the one that is being sent."""
    current = [frame._replace(what=MARK) for frame in pub.current[:1]]
    return pub._replace(owed=_merged((*pub.owed, *pub.doubt, *current)), doubt=(), current=())


def _doubt(pub: Pub, sent: Frame) -> Pub:
    return pub._replace(doubt=_merged((*pub.doubt, sent._replace(what=MARK))))


def _merged(marks: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Return the latest mark of each stamp."""
    return tuple({(mark.origin, mark.settled): mark for mark in sorted(marks)}.values())


def name(frame: Frame) -> str:
    """Return a frame's name for people."""
    origin = f" of origin {frame.origin + 1}" if frame.origin else ""
    if frame.what == EVENT:
        return f"event {frame.seq}{origin}"
    return f"{'twin' if frame.what == TWIN else 'mark'} {frame.first}-{frame.seq - 1}{origin}"
