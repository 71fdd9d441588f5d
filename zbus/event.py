"""What a subscriber gets: an `Event`, word of a `Gap` where events were lost, or of a `Mismatch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    D = TypeVar("D", default=Any, covariant=True)
    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    D = TypeVar("D", covariant=True)
    T = TypeVar("T")

__all__ = ["CLOSED", "Closed", "Event", "Gap", "Mismatch", "Received"]


class Event(Generic[D]):
    """One event as it was sent.

    Attributes:
        system: what it is about, dot-separated segments, for example `orders.eu`.
        kind: what happened, for example `order.created`.
        path: which thing it happened to, for example `/orders/123`.
        data: any JSON value, `bytes`, or `None` if it was sent without data.
        origin: the sending publisher's incarnation, 8 to 16 hex digits; empty if not stamped.
        seq: counts from 1 per (origin, system, kind); 0 if not stamped.
    """

    # Slots filled one by one, not a NamedTuple: the receive loop makes one per event, and this costs
    # 90 ns less than building a tuple first (measured, CPython 3.11).
    __slots__ = ("data", "kind", "origin", "path", "seq", "system")

    system: str
    kind: str
    path: str
    data: D
    origin: str
    seq: int

    def __init__(
        self, system: str, kind: str, path: str, data: Any = None, origin: str = "", seq: int = 0
    ) -> None:
        self.system = system
        self.kind = kind
        self.path = path
        self.data = data
        self.origin = origin
        self.seq = seq

    def _fields(self) -> tuple[Any, ...]:
        return (self.system, self.kind, self.path, self.data, self.origin, self.seq)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Event) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # data may be a dict

    def __repr__(self) -> str:
        return f"Event({self.system!r}, {self.kind!r}, {self.path!r}, {self.data!r})"


class Received(tuple[Event[D], Literal[True]], Generic[D]):
    """What `receive` returns with an event. It is a tuple, `(event, True)`, and unpacks as one.

    Attributes:
        ok: true.
    """

    __slots__ = ()
    ok: Literal[True] = True

    @property
    def event(self) -> Event[D]:
        """The event."""
        return self[0]


class Closed(tuple[Any, Literal[False]]):
    """What `receive` returns once the channel is closed and drained: `(None, False)`.

    Attributes:
        ok: false.
        event: `None`. Type checkers take it for anything, unpacked too, so that it is enough to look at `ok`.
    """

    __slots__ = ()
    ok: Literal[False] = False
    event: Any = None


CLOSED = Closed((None, False))
"""The only one."""


class Gap(NamedTuple):
    """A run of events of one publisher and topic that a full queue dropped.

    Both ends are included: `first=5, last=7` says that 5, 6 and 7 never arrived.
    """

    origin: str
    system: str
    kind: str
    first: int
    last: int

    @property
    def events(self) -> int:
        """How many events are missing, at least 1."""
        return self.last - self.first + 1


class Mismatch(NamedTuple):
    """An event whose data is not of the type that the subscription asked for.

    `event.data` is as it was sent; `reason` says what does not fit and where.
    """

    event: Event
    reason: str
