"""Time-outs as the API takes them: float seconds, `None` for ever. Time itself is an argument here."""

from __future__ import annotations

from math import ceil, inf

from ..errors import Invalid

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
    if not timeout >= 0:  # or NaN
        raise Invalid(f"{what} is {timeout}: give seconds from 0, or None to wait for ever", value=timeout)
    try:
        return float(timeout)
    except OverflowError:
        return inf


def milliseconds(seconds: float) -> int:
    """Return `seconds` for libzmq, rounded up so that it never wakes early; -1, for ever, if infinite.

    At most 2**31 - 1, the largest it takes: 24 days, after which a caller looks at the time again.
    """
    return -1 if seconds == inf else min(ceil(max(0.0, min(seconds, 1e7)) * 1000), 2**31 - 1)
