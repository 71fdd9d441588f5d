"""What a subscriber gets: an `Event`, a `Gap` where events were lost, a `Mismatch` where data did not fit."""

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
        system: what it is about, in dot-separated segments, for example `orders.eu`.
        kind: what happened, for example `order.created`.
        path: what it happened to, for example `/orders/123`.
        data: any JSON value, `bytes`, or `None` if it was sent without data.
        origin: the publisher that sent it: 8 to 16 hex digits, new each time a bus is opened; empty if the
            publisher does not number its events.
        seq: its number, counted from 1 for each (origin, system, kind); 0 if not numbered.
        time: when it was sent, in seconds since the epoch by the sender's clock; `None` if the publisher does
            not tell.

    Events are equal if all of these are equal except `time`.
    """

    # Slots filled one by one, not a NamedTuple: the receive loop makes one per event, and this costs
    # 90 ns less than building a tuple first (measured, CPython 3.11).
    __slots__ = ("data", "kind", "origin", "path", "raw_time", "seq", "system")

    system: str
    kind: str
    path: str
    data: D
    origin: str
    seq: int

    def __init__(
        self,
        system: str,
        kind: str,
        path: str,
        data: Any = None,
        origin: str = "",
        seq: int = 0,
        time: float | None = None,
    ) -> None:
        self.system = system
        self.kind = kind
        self.path = path
        self.data = data
        self.origin = origin
        self.seq = seq
        self.raw_time: bytes | float | None = time

    @property
    def time(self) -> float | None:
        """When it was sent, in seconds since the epoch; `None` if untold."""
        # Most readers never ask, so the decoder leaves the end of the stamp to be read here.
        raw = self.raw_time
        if isinstance(raw, bytes):
            raw = self.raw_time = _seconds(raw)
        return raw

    def _fields(self) -> tuple[Any, ...]:
        return (self.system, self.kind, self.path, self.data, self.origin, self.seq)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Event) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # data may be a dict

    def __repr__(self) -> str:
        return f"Event({self.system!r}, {self.kind!r}, {self.path!r}, {self.data!r})"


def _seconds(rest: bytes) -> float | None:
    """Return the time in `born.settled.first.time`, the end of a stamp; it may have fewer fields, or more."""
    fields = rest.split(b".", 4)
    digits = fields[3] if len(fields) > 3 else b""
    return int(digits) / 1e6 if digits.isdigit() and len(digits) <= 19 else None


class Received(tuple[Event[D], Literal[True]], Generic[D]):
    """What `receive` returns when there is an event: the tuple `(event, True)`.

    Attributes:
        ok: `True`.
    """

    __slots__ = ()
    ok: Literal[True] = True

    @property
    def event(self) -> Event[D]:
        """The event."""
        return self[0]


class Closed(tuple[Any, Literal[False]]):
    """What `receive` returns once the channel is closed and drained: the tuple `(None, False)`.

    Attributes:
        ok: `False`.
        event: `None`. Its type is `Any`, also when unpacked, so type checkers are content with a check of
            `ok`.
    """

    __slots__ = ()
    ok: Literal[False] = False
    event: Any = None


CLOSED = Closed((None, False))
"""The only instance."""


class Gap(NamedTuple):
    """Consecutive events of one publisher and topic that were lost because a queue was full.

    Both ends are included: with `first=5, last=7`, events 5, 6 and 7 never arrived.
    """

    origin: str
    system: str
    kind: str
    first: int
    last: int

    @property
    def events(self) -> int:
        """How many events were lost, at least 1."""
        return self.last - self.first + 1


class Mismatch(NamedTuple):
    """An event whose data is not of the type that the subscription asked for.

    `event.data` is the data as it was sent; `reason` says what does not fit, and where.
    """

    event: Event
    reason: str
