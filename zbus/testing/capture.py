"""What was sent on a bus, as a list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from ..event import Event, Gap
from ..node.node import Node
from ..options import check_timeout
from ..runtime.lifecycle import open_nodes
from ..runtime.threads import Condition, start
from .faults import FaultyBus

__all__ = ["Capture", "Sent"]

_SECONDS = 5.0

Topic = tuple[str, str, str]


class Sent(NamedTuple):
    """An event as it was sent. It equals a plain tuple of the same four values."""

    system: str
    kind: str
    path: str
    data: Any


class Capture(Sequence[Sent]):
    """The events sent so far, oldest first: a list that grows.

    It always contains everything that this process has sent so far, through any bus object of the same bus.
    Events of other processes arrive a moment later: call `wait`. What `zbus_faults` drops is left out.

        zbus.send("orders", "order.created", "/orders/123", {"total": 9.5})
        assert zbus_capture == [("orders", "order.created", "/orders/123", {"total": 9.5})]
    """

    def __init__(self, bus: FaultyBus) -> None:
        """Made by `zbus_capture`: capture what is sent on `bus` from now on."""
        self._bus = bus
        self._news = Condition()
        self._events: list[Event] = []
        self._skip = 0
        self._seen: dict[Topic, int] = {}
        self._sub = bus.subscribe("*", overflow="block", on_gap=self._miss)
        self._before = self._sent()
        self._thread = start("zbus-capture", self._read)

    def _sent(self) -> dict[Topic, int]:
        """Return, by topic, the latest number that the publishers of this process have used."""
        sent: dict[Topic, int] = {}
        deadline = time.monotonic() + _SECONDS
        for node in open_nodes():
            if not isinstance(node, Node) or node.path != self._bus.path:
                continue
            node.hand_over_held(deadline)
            if (held := node.publisher.coalescer) is not None and held.rows and time.monotonic() >= deadline:
                raise AssertionError(f"what `coalesce` holds could not be sent within {_SECONDS} s")
            sent |= node.publisher.sent()
        for topic, first in self._bus.lost.items():
            sent[topic] = first - 1
        return sent

    def _miss(self, gap: Gap) -> None:
        with self._news:
            self._note((gap.origin, gap.system, gap.kind), gap.last)

    def _read(self) -> None:
        for evt in self._sub:
            with self._news:
                self._events.append(evt)
                self._note((evt.origin, evt.system, evt.kind), evt.seq)

    def _note(self, topic: Topic, seq: int) -> None:
        self._seen[topic] = seq
        self._news.notify_all()

    def _catch_up(self) -> list[Event]:
        """Return all events, as soon as those that this process has sent are among them."""
        due = {topic: seq for topic, seq in self._sent().items() if seq > self._before.get(topic, 0)}
        with self._news:
            if not self._news.wait_for(
                lambda: all(self._seen.get(topic, 0) >= seq for topic, seq in due.items()), _SECONDS
            ):
                raise AssertionError(f"what was sent has not arrived within {_SECONDS} s: {due}")
            return self._events[self._skip :]

    @property
    def events(self) -> list[Event]:
        """The same events as `Event` objects, which also have `origin`, `seq` and `time`."""
        return self._catch_up()

    def wait(self, count: int = 1, timeout: float | None = _SECONDS) -> list[Sent]:
        """Wait until at least `count` events were sent, and return all of them.

        Args:
            count: how many to wait for.
            timeout: seconds to wait at most; `None` means forever.

        Raises:
            AssertionError: there were fewer when time ran out; the message shows them.
        """
        with self._news:
            if not self._news.wait_for(
                lambda: len(self._events) - self._skip >= count, check_timeout(timeout)
            ):
                raise AssertionError(f"{count} events were expected within {timeout} s, not {[*self]}")
        return [*self]

    def clear(self) -> None:
        """Forget what was sent so far."""
        self._skip += len(self._catch_up())

    def close(self) -> None:
        """Stop capturing. What was captured stays."""
        self._sub.close()
        self._thread.join()

    @overload
    def __getitem__(self, index: int) -> Sent: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sent]: ...

    def __getitem__(self, index: int | slice) -> Sent | list[Sent]:
        return [*self][index]

    def __iter__(self) -> Iterator[Sent]:
        return iter([Sent(evt.system, evt.kind, evt.path, evt.data) for evt in self._catch_up()])

    def __len__(self) -> int:
        return len(self._catch_up())

    def __eq__(self, other: object) -> bool:
        return [*self] == [*other] if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return repr([*self])
