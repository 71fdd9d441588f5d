"""The options of a bus and of a subscription: their defaults and their checks.

`Bus` and `subscribe` spell their options out, for `help` and for type checkers. Inside the package they
travel as `BusOptions` and `SubscriptionOptions`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from .errors import Invalid
from .event import Gap, Mismatch
from .protocol.patterns import Matcher, plain
from .protocol.typed import Fit, fitter

__all__ = [
    "CAPACITY",
    "CAPACITY_BYTES",
    "DEFAULT",
    "JOIN_TIMEOUT",
    "LINGER",
    "MAX_EVENT_BYTES",
    "OVERFLOW",
    "SEND_TIMEOUT",
    "BusOptions",
    "Overflow",
    "PolicyFunction",
    "SubscribeKeywords",
    "SubscriptionOptions",
    "SubscriptionRequest",
    "check_callback",
    "check_count",
    "check_policy",
    "check_timeout",
]

Overflow = Literal["drop", "block", "latest"]
"""What happens when a queue is full; see `Bus.subscribe`."""

PolicyFunction = Callable[[str, str], bool]
"""Decides whether an action is allowed: a `zbus.Policy`, or any callable that takes the same arguments."""

CAPACITY = 65_536
CAPACITY_BYTES = 64 * 1024 * 1024
MAX_EVENT_BYTES = 16 * 1024 * 1024
SEND_TIMEOUT = 5.0
JOIN_TIMEOUT = 1.0
LINGER = 1.0
OVERFLOW: Overflow = "drop"


class _SendTimeoutOfBus:
    def __repr__(self) -> str:
        return "send_timeout of the bus"


DEFAULT: Any = _SendTimeoutOfBus()
"""The default `timeout` of `send` and `flush`, which is the bus's own, since `None` means forever."""


class BusOptions(NamedTuple):
    """The options of a bus; `Bus` explains them."""

    policy: PolicyFunction | None = None
    capacity: int = CAPACITY
    capacity_bytes: int = CAPACITY_BYTES
    max_event_bytes: int = MAX_EVENT_BYTES
    send_timeout: float | None = SEND_TIMEOUT
    join_timeout: float = JOIN_TIMEOUT
    linger: float = LINGER
    coalesce: float | None = None

    def checked(self) -> BusOptions:
        """Return the same options with plain numbers; a `join_timeout` or `linger` of `None` is infinite.

        Raises:
            TypeError: an option of the wrong type.
            Invalid: a number out of range.
        """
        check_callback(self.policy, "policy")
        return self._replace(
            capacity=check_count(self.capacity, "capacity"),
            capacity_bytes=check_count(self.capacity_bytes, "capacity_bytes"),
            max_event_bytes=check_count(self.max_event_bytes, "max_event_bytes"),
            send_timeout=check_timeout(self.send_timeout, "send_timeout"),
            join_timeout=check_timeout(self.join_timeout, "join_timeout"),
            linger=check_timeout(self.linger, "linger"),
            coalesce=0.0 if self.coalesce is None else check_timeout(self.coalesce, "coalesce"),
        )

    def seconds(self, timeout: float | None = DEFAULT) -> float:
        """Return how long a call with this `timeout` may take; by default that is `send_timeout`."""
        return check_timeout(self.send_timeout if timeout is DEFAULT else timeout)


class SubscribeKeywords(TypedDict, total=False):
    """The keyword arguments of `subscribe` except `type`, for type checkers."""

    overflow: Overflow
    capacity: int | None
    capacity_bytes: int | None
    on_gap: Callable[[Gap], object] | None
    on_error: Callable[[Mismatch], object] | None


class SubscriptionOptions(NamedTuple):
    """The options of a subscription; `Bus.subscribe` explains them."""

    overflow: Overflow = OVERFLOW
    capacity: int | None = None
    capacity_bytes: int | None = None
    on_gap: Callable[[Gap], object] | None = None
    type: Any = None
    on_error: Callable[[Mismatch], object] | None = None

    def request(self, bus: BusOptions, system: str, kind: str | None) -> SubscriptionRequest:
        """Return the request to subscribe with these options on a bus with those.

        Raises:
            TypeError, Invalid: see `Bus.subscribe`.
        """
        systems = Matcher(system, "system pattern")
        kind = plain(kind)
        kinds = Matcher(kind, "kind pattern") if kind not in (None, "", "*") else None
        overflow = plain(self.overflow)
        if overflow not in (known := get_args(Overflow)):
            choices = ", ".join(map(repr, known))
            raise Invalid(f"overflow {overflow!r} is not one of {choices}", value=overflow)
        capacity = _count_or(bus.capacity, self.capacity, "capacity")
        capacity_bytes = _count_or(bus.capacity_bytes, self.capacity_bytes, "capacity_bytes")
        check_callback(self.on_gap, "on_gap")
        check_callback(self.on_error, "on_error")
        if self.on_error is not None and self.type is None:
            raise Invalid("on_error is told of data that is not of a type: give type= too")
        fit = None if self.type is None else fitter(self.type)
        return SubscriptionRequest(
            systems, kinds, overflow, capacity, capacity_bytes, self.on_gap, fit, self.on_error
        )


class SubscriptionRequest(NamedTuple):
    """What a subscription asks for, checked.

    Attributes:
        system, kind: the patterns; `kind` is `None` if every kind matches.
        overflow, capacity, capacity_bytes, on_gap, on_error: as in `SubscriptionOptions`.
        fit: converts data to the type asked for; `None` if none is.
    """

    system: Matcher
    kind: Matcher | None
    overflow: Overflow
    capacity: int
    capacity_bytes: int
    on_gap: Callable[[Gap], object] | None
    fit: Fit | None
    on_error: Callable[[Mismatch], object] | None


def check_count(value: object, what: str) -> int:
    """Return `value` if it is a positive number that 31 bits can hold.

    Raises:
        TypeError: it is not an int.
        Invalid: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not 1 <= value < 2**31:
        raise Invalid(f"{what} is {value}: give a number from 1 to {2**31 - 1}", value=value)
    return value


def _count_or(default: int, value: int | None, what: str) -> int:
    return default if value is None else check_count(value, what)


def check_timeout(timeout: object, what: str = "timeout") -> float:
    """Return `timeout` in seconds; `None` is infinite.

    Raises:
        TypeError: it is neither a number nor `None`.
        Invalid: it is negative or NaN.
    """
    if timeout is None:
        return inf
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{what} must be seconds as a number, or None, not {type(timeout).__name__}")
    if not timeout >= 0:  # or NaN
        raise Invalid(f"{what} is {timeout}: give seconds from 0, or None to wait forever", value=timeout)
    try:
        return float(timeout)
    except OverflowError:
        return inf


def check_callback(value: object, what: str) -> None:
    """Raise TypeError unless `value` is `None` or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{what} must be callable, not {type(value).__name__}")


def check_policy(policy: PolicyFunction | None, action: str, what: str, resource: str) -> None:
    """Raise `Invalid` if `policy` denies `action` on `resource`; `what` describes the action in words."""
    if policy is not None and not policy(action, resource):
        raise Invalid(f"not allowed to {what}: {resource}", action=action, resource=resource)
