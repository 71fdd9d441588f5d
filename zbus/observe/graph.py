"""Who sends what to whom, as a graph that people can read: like members and neighbouring topics are one node.

A bus of many topics would be a picture of nothing. So topics are folded, first by system, then by the first
segments of the system, until there are few enough; members that send and receive the same are one node, too.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from .selection import Selection
from .snapshot import MemberRow, Snapshot, TopicRow

__all__ = ["Edge", "Graph", "MemberNode", "TopicNode", "graph_of"]

# What fits a screen and the reader. Mermaid draws no more than 500 edges.
_MOST_TOPICS = 40
_MOST_EDGES = 400


class MemberNode(NamedTuple):
    """Processes that have the same name, and send and receive the same.

    Attributes:
        id: in this graph: `m1`, `m2` and so on.
        process: the name of the program.
        pids, members: of each process: its process id, and the id of its member.
        alive: whether they are; the dead are not together with the living.
    """

    id: str
    process: str
    pids: tuple[int, ...]
    members: tuple[str, ...]
    alive: bool


class TopicNode(NamedTuple):
    """Topics, or what subscribers wait for and nobody has sent.

    Attributes:
        id: in this graph: `t1`, `t2` and so on.
        system, kind: of the topic. If there are several: patterns that select them, and maybe others.
        topics: how many; 0 for patterns that nobody has sent to.
        rate: events sent, a second; `None` if nobody can tell yet.
        sent_total: events sent so far.
    """

    id: str
    system: str
    kind: str
    topics: int
    rate: float | None
    sent_total: int


class Edge(NamedTuple):
    """From a member to a topic that it sends to, or from a topic to a member that selects it.

    Attributes:
        source, target: the ids of the nodes.
        rate: events a second that go along it; `None` if nobody can tell yet.
    """

    source: str
    target: str
    rate: float | None


class Graph(NamedTuple):
    """A bus as of `time`, in seconds since the epoch.

    Attributes:
        bus, path: its name and its directory.
        members, topics: the nodes.
        sends: edges from members to topics.
        receives: edges from topics to members.
    """

    bus: str
    path: str
    time: float
    members: tuple[MemberNode, ...]
    topics: tuple[TopicNode, ...]
    sends: tuple[Edge, ...]
    receives: tuple[Edge, ...]


def graph_of(bus: Snapshot, whole: Snapshot | None = None) -> Graph:
    """Return who sends what to whom, folded as little as is needed for at most 40 topics and 400 edges.

    An edge to or from several topics says that it is true of one of them at least.

    Args:
        bus: the topics to draw, with the members that send or select them, and its other members.
        whole: what `bus` was selected from; if `None`, it is everything.
    """
    whole = whole or bus
    drawn = {row.id for row in bus.members}
    for topic in bus.topics:
        drawn.update(topic.publishers, topic.subscribers)
    members = [row for row in whole.members if row.id in drawn]
    unsent = _unsent(members, whole.topics)
    for fold in _folds(bus.topics):
        groups: dict[Hashable, _Topics] = defaultdict(_Topics)
        for topic in bus.topics:
            groups[fold(topic)].add(topic)
        every = sorted(groups.values(), key=lambda topics: topics.names) + unsent
        found = Graph(bus.bus, bus.path, bus.time, *_drawn(members, every))
        if len(groups) <= _MOST_TOPICS and len(found.sends) + len(found.receives) <= _MOST_EDGES:
            break
    return found


def _folds(topics: Sequence[TopicRow]) -> Iterator[Callable[[TopicRow], Hashable]]:
    """Yield ways to put topics together, from each by itself to all in one: of equal values, they are one."""
    yield lambda topic: (topic.system, topic.kind)
    deepest = max((topic.system.count(".") for topic in topics), default=0) + 1
    yield from map(_begins_alike, range(deepest, 0, -1))
    yield lambda topic: (tuple(sorted(topic.publishers)), topic.subscribers)
    yield lambda topic: ()  # noqa: ARG005


def _begins_alike(depth: int) -> Callable[[TopicRow], Hashable]:
    return lambda topic: tuple(topic.system.split(".")[:depth])


class _Topics:
    """Topics that are one node: who sends to them and who selects them, with rates."""

    def __init__(self) -> None:
        self.count = self.sent = 0
        self.rate: float | None = None
        self.senders: dict[str, float | None] = {}
        self.receivers: dict[str, float | None] = {}
        self._systems: set[str] = set()
        self._kinds: set[str] = set()

    @property
    def names(self) -> tuple[str, str]:
        """Return the system and the kind, or patterns that select all of them."""
        kind = "*" if len(self._kinds) > 1 else min(self._kinds)
        if len(self._systems) == 1:
            return min(self._systems), kind
        first, last = min(self._systems).split("."), max(self._systems).split(".")
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        return ".".join([*(one for one, _ in same), "**"]), kind

    def name(self, system: str, kind: str) -> None:
        """Give it one more name."""
        self._systems.add(system)
        self._kinds.add(kind)

    def add(self, row: TopicRow) -> None:
        """Add a topic that was sent."""
        self.name(row.system, row.kind)
        self.count += 1
        self.sent += row.sent_total
        self.rate = _plus(self.rate, row.out)
        for member, rate in zip(row.publishers, row.publisher_rates, strict=True):
            self.senders[member] = _plus(self.senders.get(member), rate)
        for member in row.subscribers:
            self.receivers[member] = _plus(self.receivers.get(member), row.out)


def _plus(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other


def _unsent(members: Iterable[MemberRow], topics: Iterable[TopicRow]) -> list[_Topics]:
    """Return the patterns that select no topic, with the members that wait for them; many in one."""
    sent = Selection((row.system, row.kind) for row in topics)
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    for member in members:
        for system, kind, _ in member.patterns:
            if member.alive and not sent.of(system, kind):
                waiting[system, kind].append(member.id)
    found: dict[Hashable, _Topics] = defaultdict(_Topics)
    for names in sorted(waiting):
        node = found[names if len(waiting) <= _MOST_TOPICS else ()]
        node.name(*names)
        node.receivers |= dict.fromkeys(waiting[names])
    return [*found.values()]


def _drawn(
    rows: Iterable[MemberRow], every: Sequence[_Topics]
) -> tuple[tuple[MemberNode, ...], tuple[TopicNode, ...], tuple[Edge, ...], tuple[Edge, ...]]:
    """Return the nodes and edges of topics that are put together already."""
    members = _members(rows, every)
    node_of = {member: node.id for node in members for member in node.members}
    nodes = tuple(
        TopicNode(f"t{number}", *topics.names, topics.count, topics.rate, topics.sent)
        for number, topics in enumerate(every, 1)
    )
    sends: dict[tuple[str, str], float | None] = {}
    receives: dict[tuple[str, str], float | None] = {}
    for node, topics in zip(nodes, every, strict=True):
        for member, rate in topics.senders.items():
            pair = node_of[member], node.id
            sends[pair] = _plus(sends.get(pair), rate)
        for member, rate in topics.receivers.items():
            pair = node.id, node_of[member]
            receives[pair] = _plus(receives.get(pair), rate)
    return members, nodes, _edges(sends), _edges(receives)


def _edges(rates: dict[tuple[str, str], float | None]) -> tuple[Edge, ...]:
    return tuple(Edge(*pair, rate) for pair, rate in rates.items())


def _members(rows: Iterable[MemberRow], every: Sequence[_Topics]) -> tuple[MemberNode, ...]:
    """Return the nodes of members: those that send and receive the same are one."""
    sends, receives = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for number, topics in enumerate(every):
        for member in topics.senders:
            sends[member].append(number)
        for member in topics.receivers:
            receives[member].append(number)
    alike: dict[Hashable, list[MemberRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.process, row.pid, row.id)):
        alike[row.process, row.alive, tuple(sends[row.id]), tuple(receives[row.id])].append(row)
    return tuple(
        MemberNode(
            id=f"m{number}",
            process=each[0].process,
            pids=tuple(row.pid for row in each),
            members=tuple(row.id for row in each),
            alive=each[0].alive,
        )
        for number, each in enumerate(alike.values(), 1)
    )
