"""Signals end a command as an exception would: through its `with` blocks, without a traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "hold_signals", "ignore_signals", "raise_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the command to end.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def raise_signals() -> None:
    """From now on raise `Interrupted` for the first signal; what the caller of zbus ignores stays ignored."""
    for number in _handled():
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From now on let nothing interrupt: for the way out, which is short and must be complete."""
    for number in _handled():
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let a signal wait until the end of the block, for steps that belong together."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _handled()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        _interrupt(held[0], None)


def _handled() -> list[signal.Signals]:
    # A shell starts background jobs with SIGINT ignored, and nohup does so with SIGHUP.
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    ignore_signals()
    raise Interrupted(number)
