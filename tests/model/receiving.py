"""The steps of a subscribing process: its script, its forwarder, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

from .checker import Step
from .rules import Rules
from .world import (
    ABSENT,
    BARRIER,
    CLOSE,
    DEAF,
    DIAL,
    GONE,
    HOME,
    JOIN,
    LEAVE,
    LISTENS,
    OUT,
    UP,
    Link,
    State,
    Sub,
    epoch_of,
    sentinel,
)

__all__ = ["Receiving"]

_MARKER = 2
_FIRST_ONLY = {
    "name",
    "name too early",
    "listen",
    "first entry",
    "look",
    "rob entries",
    "rob socket",
    "rob token",
}
_LATER_ONLY = {"old entry", "renamed entry", "unmark"}
# Nobody else can tell whether these have happened yet: they touch the process's own pipes alone.
_OWN_PIPES = {"subscribe", "await barrier", "mark", "await sentinel", "unmark"}
# Nor can it be told of these; subscribe() returns at its earliest moment, which asks for more.
_PRIVATE = _OWN_PIPES | {"return"}


class Receiving:
    """What subscribing processes may do next."""

    def __init__(self, rules: Rules, *, joins: int, prefixes: tuple[int, int], ends: str) -> None:
        """Let each process join with up to `joins` channels of these prefixes.

        `ends` says what may happen to a process and its channels: `c` a channel closes, `l` the process
        leaves, `k` it is killed.
        """
        self._joins = joins
        self._prefixes = prefixes
        self._ends = ends
        self._own_sentinel = "sentinel outlives channel" in rules.broken
        self._first_bytes_last = "byte order" in rules.broken
        self._scripts = {
            (JOIN, 1): tuple(action for action in rules.join if action not in _LATER_ONLY),
            (JOIN, 2): tuple(action for action in rules.join if action not in _FIRST_ONLY),
        }
        for epoch in (1, 2):
            self._scripts[CLOSE, epoch] = rules.close
            self._scripts[LEAVE, epoch] = rules.leave

    def steps(self, state: State, number: int) -> Iterator[Step[State]]:
        """Yield what the process, its forwarder and its user may do next."""
        sub = state.subs[number]
        if sub.task == GONE:
            return
        name = f"S{number + 1}"
        yield from self._act(state, number, name)
        yield from self._pass(state, number, name)
        yield from self._accept(state, number, name)
        yield from self._wish(state, number, name)
        if "k" in self._ends and sub.task != OUT:
            yield Step(f"{name} is killed", state.ended(number), may=True)

    def private(self, state: State, number: int) -> tuple[Step[State], ...]:
        """Return the steps that may be taken before all others, without loss: see the page.

        Nobody else can see them, and a process killed before or after them leaves the same behind.
        """
        sub = state.subs[number]
        name = f"S{number + 1}"
        if sub.task == JOIN:
            for at, pipe in enumerate(sub.pipes):
                if pipe[:1] == (BARRIER,):
                    return (self._pass_one(state, number, name, at),)
            steps = self._act(state, number, name) if self._script(sub)[sub.at] in _PRIVATE else ()
            if sub.epoch == 1 and steps:  # nobody is connected yet
                return (*steps, *self._pass(state, number, name))
            if steps := tuple(steps):
                return steps
        if sub.task == LEAVE and self._script(sub)[sub.at - 1 : sub.at + 1] == ("token", "end"):
            return tuple(self._act(state, number, name))  # every publisher is about to drop it
        return tuple(self._accept(state, number, name)) if self._complete(sub) else ()

    def _complete(self, sub: Sub) -> bool:
        """Whether what it tells a new connection is the same for ever."""
        if sub.task not in (JOIN, HOME) or sub.epoch < self._joins or "c" in self._ends or any(sub.pipes):
            return False
        return sub.task == HOME or _OWN_PIPES.isdisjoint(self._script(sub)[sub.at :])

    def _script(self, sub: Sub) -> tuple[str, ...]:
        return self._scripts[sub.task, sub.epoch]

    def _wish(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """Yield what a user may begin: a subscription, the end of one, the end of the bus."""
        sub = state.subs[number]
        if sub.task not in (OUT, HOME):
            return
        if sub.epoch < self._joins:
            wish = sub._replace(task=JOIN, at=0, epoch=sub.epoch + 1)
            yield Step(f"{name} begins to subscribe {sub.epoch + 1}", state.sub(number, wish), may=True)
        if "l" in self._ends and sub.task == HOME:
            # Its first action at once: until then its channels are as good as open, which asks for more.
            wish = state.sub(number, sub._replace(task=LEAVE, at=0, open=0))
            [first] = self._act(wish, number, name)
            yield Step(f"{name} begins to leave; {first.label}", first.state, True, first.fault)
        if "c" in self._ends:
            for channel in (1, 2):
                if sub.open & channel:
                    yield Step(f"{name} closes channel {channel}", self._close(state, number, channel), True)

    def _close(self, state: State, number: int, channel: int) -> State:
        sub = state.subs[number]
        messages = [-self._prefixes[channel - 1]]
        if self._own_sentinel:
            messages.append(-sentinel(channel))
        task = CLOSE if self._script(sub._replace(task=CLOSE)) else HOME
        sub = sub._replace(task=task, at=0, open=sub.open & ~channel)
        return state.sub(number, _push(sub, channel - 1, *messages))

    def _act(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """Yield the next action of the script, unless it has to wait."""
        sub = state.subs[number]
        if sub.task not in (JOIN, CLOSE, LEAVE):
            return
        script = self._script(sub)
        action = script[sub.at]
        if action == "await barrier" and BARRIER in sub.pipes[sub.epoch - 1]:
            return
        if action == "await sentinel" and not sub.front & sentinel(sub.epoch):
            return
        yield self._do(action, state.sub(number, self._at(sub, sub.at + 1)), number, name)

    def _at(self, sub: Sub, at: int) -> Sub:
        """Move to a position of the script; behind its end the process is at home again."""
        return sub._replace(at=at) if at < len(self._script(sub)) else sub._replace(task=HOME, at=0)

    def _do(self, action: str, state: State, number: int, name: str) -> Step[State]:
        """Return one action of a script; its position has moved on already."""
        sub = state.subs[number]
        if action in ("look", "rob entries", "rob socket", "rob token"):
            return self._rob(action, state, number, name)
        if action in ("entry", "first entry", "old entry", "renamed entry", "entries"):
            return Step(f"{name}: {action}", state.listing(number, _entries(action, sub)))
        if action == "rewrite":
            return Step(f"{name} renames over its entry", state.blurred(number, sub.entries))
        if action == "token":
            return Step(f"{name} writes the token", state.told())
        if action == "end":
            return Step(f"{name} ends", state.ended(number))
        return Step(f"{name}: {action}", state.sub(number, self._own(action, sub)))

    def _own(self, action: str, sub: Sub) -> Sub:
        """Return a process after an action on its own pipes, its socket or its user's side."""
        marker = sub.epoch - 1 if self._own_sentinel else _MARKER
        match action:
            case "subscribe":
                return _push(sub, sub.epoch - 1, self._prefixes[sub.epoch - 1], BARRIER)
            case "mark":
                return _push(sub, marker, sentinel(sub.epoch))
            case "unmark":
                return _push(sub, marker, -sentinel(sub.epoch - 1))
            case "name" | "listen":
                return sub._replace(socket=LISTENS)
            case "name too early":
                return sub._replace(socket=DEAF)
            case "socket":
                return sub._replace(socket=ABSENT)
            case "return":
                return sub._replace(open=sub.open | sub.epoch)
        return sub  # the waits

    def _rob(self, action: str, state: State, number: int, name: str) -> Step[State]:
        """Look for a dead ingress and remove it (R27, R28); skip to the end if there is none."""
        sub = state.subs[number]
        preys = [at for at, other in enumerate(state.subs) if at != number and _doubtful(other)]
        script = self._scripts[JOIN, 1]
        if action == "rob token":
            return Step(f"{name} writes the token", state.told())
        if not preys:
            skip = script.index("rob token") + (action == "look")
            return Step(f"{name}: nothing to {action} at", state.sub(number, self._at(sub, skip)))
        prey = preys[0]
        other = state.subs[prey]
        label = f"{name}: {action} of S{prey + 1}"
        if action == "look":
            return Step(label, state, fault="a live ingress is taken for dead" if other.stays else "")
        if action == "rob entries":
            return Step(label, state.listing(prey, 0))
        return Step(label, state.sub(prey, other._replace(socket=ABSENT)))

    def _pass(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """Yield what the forwarder may hand on next: it reads its pipes in any order."""
        for at, pipe in enumerate(state.subs[number].pipes):
            if pipe:
                yield self._pass_one(state, number, name, at)

    def _pass_one(self, state: State, number: int, name: str, at: int) -> Step[State]:
        sub = state.subs[number]
        message, *rest = sub.pipes[at]
        taken = sub._replace(pipes=(*sub.pipes[:at], tuple(rest), *sub.pipes[at + 1 :]))
        after = self._forward(state.sub(number, taken), number, at, message)
        return Step(f"{name} forwards {_text(message)}", after, fault=self._revoked(after.subs[number]))

    def _forward(self, state: State, number: int, pipe: int, message: int) -> State:
        """Hand a message to every connection, unless another channel holds the same topic."""
        sub = state.subs[number]
        topic = abs(message)
        if not topic:
            return state
        if not epoch_of(topic):
            back = sub.back | pipe + 1 if message > 0 else sub.back & ~(pipe + 1)
            others = back & ~(pipe + 1)
            sub = sub._replace(back=back)
            if others and self._prefixes[others - 1] == topic:
                return state.sub(number, sub)
        front = sub.front | topic if message > 0 else sub.front & ~topic
        state = state.sub(number, sub._replace(front=front))
        for at, pub in enumerate(state.pubs):
            link = pub.links[number]
            if link.want and link.stage == UP:
                state = state.linked(number, at, link.sent(message))
        return state

    def _revoked(self, sub: Sub) -> str:
        """Return a fault if what an open channel has subscribed is no longer in force.

        That it never happens lets a send be one step, see `Sending`.
        """
        for channel in (1, 2):
            if sub.open & channel and not sub.front & self._prefixes[channel - 1]:
                return "a subscription is revoked that an open channel needs"
        return ""

    def _accept(self, state: State, number: int, name: str) -> Iterator[Step[State]]:
        """Yield the new connections that the forwarder may take on."""
        for at, pub in enumerate(state.pubs):
            link = pub.links[number]
            if link.want and link.stage == DIAL:
                after = state.linked(number, at, self._tell(state.subs[number], link))
                yield Step(f"{name} accepts P{at + 1} and sends it all topics", after)

    def _tell(self, sub: Sub, link: Link) -> Link:
        """Send a new connection all topics at once, in byte order, so sentinels last (R14)."""
        topics = [1 << bit for bit in range(4) if sub.front >> bit & 1]
        if self._first_bytes_last:
            topics.reverse()
        return reduce(Link.sent, topics, link._replace(stage=UP))


def _push(sub: Sub, pipe: int, *messages: int) -> Sub:
    full = (*sub.pipes[pipe], *messages)
    return sub._replace(pipes=(*sub.pipes[:pipe], full, *sub.pipes[pipe + 1 :]))


def _entries(action: str, sub: Sub) -> int:
    """Return the epochs listed after an action; the bit of epoch n is n itself, for n is 1 or 2."""
    match action:
        case "entry" | "first entry":
            return sub.entries | sub.epoch
        case "old entry":
            return sub.entries & ~(sub.epoch - 1)
        case "renamed entry":
            return sub.epoch
    return 0


def _doubtful(sub: Sub) -> bool:
    """Whether there are files of an ingress that does not answer."""
    return bool(sub.entries or sub.socket != ABSENT) and not sub.answers


def _text(message: int) -> str:
    if not message:
        return "the barrier"
    topic = abs(message)
    what = f"sentinel {epoch_of(topic)}" if epoch_of(topic) else f"prefix {topic}"
    return what if message > 0 else f"the removal of {what}"
