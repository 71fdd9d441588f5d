"""Counts, callbacks and policies as the API takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .errors import Invalid

__all__ = ["Overflow", "Policy", "admit", "check_callback", "check_count"]

Overflow = Literal["drop", "block", "latest"]
"""What a full queue does; see `Bus.subscribe`."""

Policy = Callable[[str, str], bool]


def check_count(value: object, what: str) -> int:
    """Return `value`, a number of things, one at least.

    Raises:
        TypeError: it is not an int.
        Invalid: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if not 1 <= value < 2**31:
        raise Invalid(f"{what} is {value}: give a number from 1 to {2**31 - 1}", value=value)
    return value


def check_callback(value: object, what: str) -> None:
    """Raise TypeError unless `value` is `None` or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{what} must be callable, not {type(value).__name__}")


def admit(policy: Policy | None, action: str, what: str, resource: str) -> None:
    """Raise if `policy` denies `action` on `resource`; `what` says it in words."""
    if policy is not None and not policy(action, resource):
        raise Invalid(f"not allowed to {what}: {resource}", action=action, resource=resource)
