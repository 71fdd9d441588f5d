"""The steps of a publishing process: one send after the other, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from .checker import Step
from .rules import Rules
from .world import (
    ABSENT,
    DIAL,
    IDLE,
    KNOWN,
    LATE,
    LINK,
    LISTED,
    LOST,
    NO_LINK,
    SCAN,
    SETTLED,
    STABLE,
    UP,
    WAIT,
    Link,
    Pub,
    State,
    arrivals,
)

__all__ = ["Sending"]

_SLIPPED = "an intact link shows less than it has shown"


class Sending:
    """What publishing processes may do next."""

    def __init__(
        self, rules: Rules, *, prefixes: tuple[int, int], ends: str, lenient: bool, reduced: bool
    ) -> None:
        """Send to channels of these `prefixes`; see `Joins` for the other arguments."""
        self._broken = rules.broken
        self._prefixes = prefixes
        self._killed = "p" in ends
        self._lenient = lenient
        # A publisher that keeps the rules settles at a token that has not moved since. So it even has all
        # who have joined by then, and need not remember who had when it began. Fewer states by far.
        self._eager = reduced

    def steps(self, state: State, number: int) -> Iterator[Step[State]]:
        """Yield what the process may do next."""
        pub = state.pubs[number]
        name = f"P{number + 1}"
        if pub.prey:
            yield self._bury(state, number, name)
        elif pub.task == IDLE:
            yield self._begin(state, number, name)
        elif pub.task == SCAN:
            yield from self._listed(state, number, name)
        elif pub.task == LATE:
            after = state.pub(number, pub._replace(task=_next(pub.todo), same=pub.same | LISTED))
            yield Step(f"{name} reads the token", after)
        elif pub.task == LINK:
            yield self._connect(state, number, name)
        else:
            yield from self._wait(state, number, name)
        fresh = Pub(links=(NO_LINK,) * len(pub.links))
        if self._killed and pub != fresh:
            yield Step(f"{name} is killed, another begins", state.pub(number, fresh), may=True)

    def _begin(self, state: State, number: int, name: str) -> Step[State]:
        """Begin a send: compare the token (R20). From here on it owes the event to whoever has joined.

        If the token has not moved, the frame goes out at once. That is one step with no loss of behaviour:
        what an open channel has subscribed stays in force, see `Receiving`, so a later moment is no worse.
        """
        pub = state.pubs[number]
        due = tuple(sub.open for sub in state.subs)
        if pub.same & (SETTLED if "compare" in self._broken else KNOWN):
            return Step(f"{name} sends, settled", state, True, self._missed(state, pub.links, due))
        label = f"{name} begins to send, reads the token and begins to list"
        pub = pub._replace(due=() if self._eager else due)
        return Step(label, self._list(state.pub(number, pub), number), may=True)

    def _list(self, state: State, number: int, *, again: bool = False) -> State:
        """Begin a listing. If it only is repeated (R13), the token read at first is not read again."""
        pub = state.pubs[number]
        late = "token before listing" in self._broken
        same = pub.same | STABLE if again or late else pub.same & SETTLED | LISTED | STABLE
        must = tuple(sub.entries for sub in state.subs)
        scan = pub._replace(task=SCAN, same=same, must=must, maybe=(0,) * len(must), todo=())
        return state.pub(number, scan)

    def _listed(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """End a listing: what changed meanwhile was seen or not, in any combination."""
        pub = state.pubs[number]
        if not pub.same & STABLE and "repeat listing" not in self._broken:
            yield Step(f"{name} lists again", self._list(state, number, again=True))
            return
        lowest = "highest epoch" in self._broken
        choices = [_tops(*pair, lowest=lowest) for pair in zip(pub.must, pub.maybe, strict=True)]
        for tops in product(*choices):
            yield self._take_in(state, number, name, tops)

    def _take_in(self, state: State, number: int, name: str, tops: tuple[int, ...]) -> Step[State]:
        """Let go of what has vanished, raise what is awaited, note what is new (R20.2)."""
        pub = state.pubs[number]
        links, todo, fault = list(pub.links), [0] * len(tops), ""
        for at, (top, link) in enumerate(zip(tops, pub.links, strict=True)):
            if link.want and not top and "let go" not in self._broken:
                links[at] = NO_LINK
                fault = fault or ("a live ingress is disconnected" if state.subs[at].stays else "")
            elif link.want and top > link.want:
                links[at] = link._replace(want=top)
                todo[at] = top if "one connection" in self._broken else 0
            elif top and not link.want:
                todo[at] = top
        late = "token before listing" in self._broken
        task = LATE if late else _next(tuple(todo))
        same = pub.same & ~STABLE
        after = Pub(task, same, todo=tuple(todo), links=tuple(links), due=pub.due)
        shown = ", ".join(f"S{at + 1}.{top}" for at, top in enumerate(tops) if top) or "nobody"
        fault = "" if self._lenient else fault
        return Step(f"{name} has listed {shown}", state.pub(number, after), fault=fault)

    def _connect(self, state: State, number: int, name: str) -> Step[State]:
        """Probe a new ingress (R26) and connect it, or remove it as dead (R27).

        One step: whoever dies between the two leaves the same behind as one that dies just after. In any
        order: what a probe finds depends on its ingress alone.
        """
        pub = state.pubs[number]
        at, epoch = next((at, epoch) for at, epoch in enumerate(pub.todo) if epoch)
        todo = (*pub.todo[:at], 0, *pub.todo[at + 1 :])
        after = state.pub(number, pub._replace(task=_next(todo), todo=todo))
        answers = state.subs[at].answers
        if not answers and "probe" not in self._broken:
            return self._condemn(after, number, name, at)
        old = pub.links[at]
        link = old._replace(twice=True) if old.want else Link(epoch, DIAL if answers else LOST)
        return Step(f"{name} connects to S{at + 1}", after.linked(at, number, link))

    def _condemn(self, state: State, number: int, name: str, at: int) -> Step[State]:
        pub = state.pubs[number]._replace(prey=(at, 0))
        fault = "a live ingress is taken for dead" if state.subs[at].stays else ""
        return Step(f"{name} finds S{at + 1} dead", state.pub(number, pub), fault=fault)

    def _bury(self, state: State, number: int, name: str) -> Step[State]:
        """Remove a dead ingress: its entries, its socket, then write the token (R27)."""
        pub = state.pubs[number]
        at, done = pub.prey
        state = state.pub(number, pub._replace(prey=(at, done + 1) if done < 2 else ()))
        if done == 0:
            return Step(f"{name} removes the entries of S{at + 1}", state.listing(at, 0))
        if done == 1:
            bare = state.subs[at]._replace(socket=ABSENT)
            return Step(f"{name} removes the socket of S{at + 1}", state.sub(at, bare))
        quiet = "token after removal" in self._broken
        return Step(f"{name} writes the token", state if quiet else state.told())

    def _wait(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """Settle, list again, or remove one that has died meanwhile (R20.3 to R20.5)."""
        pub = state.pubs[number]
        links, fault = self._caught_up(pub.links)
        stale = not pub.same & LISTED
        if stale and (links or "list while waiting" not in self._broken):
            yield Step(f"{name} sees the token moved and lists again", self._list(state, number))
        if not stale or "list while waiting" in self._broken:
            yield from self._look_at_awaited(state, number, name)
        if fault:
            yield Step(f"{name} reads its links", state, fault=fault)
        elif links and (not stale or not self._broken.isdisjoint(_TRUSTING)):
            yield self._transmit(state, number, name, links)

    def _look_at_awaited(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        if "bury while waiting" in self._broken:
            return
        for at, link in enumerate(state.pubs[number].links):
            awaited = link.want and (link.stage == LOST or link.shown < link.want)
            if awaited and (not state.subs[at].answers or "probe before removal" in self._broken):
                yield self._condemn(state, number, name, at)

    def _caught_up(self, links: tuple[Link, ...]) -> tuple[tuple[Link, ...], str]:
        """Return the links with just as much arrived as settling needs; nothing if they cannot settle yet."""
        reached, fault = [], ""
        for link in links:
            if _slips(link):
                fault = _SLIPPED
            ready = self._reach(link)
            if ready is None:
                return (), fault
            reached.append(ready)
        return tuple(reached), fault

    def _reach(self, link: Link) -> Link | None:
        if not link.want or "await sentinel" in self._broken:
            return link
        for held, shown, taken in arrivals(link):
            if shown >= link.want:
                if "record every sentinel" not in self._broken:
                    return link._replace(fifo=link.fifo[taken:], held=held, shown=shown)
                *_, (held, _, _) = arrivals(link)  # it has read on, and forgotten the sentinels
                return link._replace(fifo=(), held=held, shown=shown)
        return None

    def _transmit(self, state: State, number: int, name: str, links: tuple[Link, ...]) -> Step[State]:
        """Remember the token as of which all are linked, and send the frame.

        A link to a dead ingress may have caught up just before it broke. Nobody can rely on that.
        """
        pub = state.pubs[number]
        known = KNOWN if pub.same & LISTED or "token of the listing" in self._broken else 0
        once = SETTLED if "compare" in self._broken else 0
        after = state.pub(number, Pub(IDLE, known | once, links=links))
        due = pub.due or tuple(sub.open for sub in state.subs)
        lucky = any(link.want and link.stage == LOST for link in links)
        return Step(f"{name} settles and sends", after, lucky, self._missed(state, links, due))

    def _missed(self, state: State, links: tuple[Link, ...], owed: tuple[int, ...]) -> str:
        """Return what is wrong if the frame goes out now: every channel that is due and open must get it."""
        for due, sub, link in zip(owed, state.subs, links, strict=True):
            for channel in (1, 2):
                if due & sub.open & channel and (fault := self._delivery(link, channel)):
                    return fault
        return ""

    def _delivery(self, link: Link, channel: int) -> str:
        """Return what is wrong with the delivery of a frame to one channel, if anything is."""
        topic = self._prefixes[channel - 1]
        if not link.want or link.stage != UP:
            return "an event is lost: there is no connection"
        if not all(held & topic for held, _, _ in arrivals(link)):
            return "an event is lost: the subscription has not arrived"
        return "an event is delivered twice" if link.twice else ""


# Rules without which a publisher settles though the token has moved since it was read.
_TRUSTING = frozenset({"check token again", "token of the listing"})


def _next(todo: tuple[int, ...]) -> int:
    return LINK if any(todo) else WAIT


def _tops(must: int, maybe: int, *, lowest: bool) -> set[int]:
    """Return the epochs that a listing may show as the one that counts (R7), 0 for none."""
    masks = {must | some & maybe for some in range(4)}
    return {mask & -mask if lowest else mask.bit_length() for mask in masks}


def _slips(link: Link) -> bool:
    shown = [shown for _, shown, _ in arrivals(link)]
    return link.stage == UP and shown != sorted(shown)
