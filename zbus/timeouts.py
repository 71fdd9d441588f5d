"""Time-outs as the API takes them: float seconds, `None` for ever. Time itself is an argument here."""

from __future__ import annotations

from math import inf, isnan

from .errors import Invalid

__all__ = ["check_timeout", "milliseconds"]


def check_timeout(timeout: object, what: str = "timeout") -> float:
    """Return `timeout` in seconds, `inf` for `None`.

    Raises:
        TypeError: neither a number nor `None`.
        Invalid: negative or NaN.
    """
    if timeout is None:
        return inf
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{what} must be seconds as a number, or None, not {type(timeout).__name__}")
    if isnan(timeout) or timeout < 0:
        raise Invalid(f"{what} is {timeout}: give seconds from 0, or None to wait for ever", value=timeout)
    return float(timeout)


def milliseconds(seconds: float) -> int:
    """Return `seconds` for libzmq, rounded up so that it never wakes early; -1, for ever, if infinite."""
    return -1 if seconds == inf else max(0, int(-(-seconds * 1000 // 1)))
