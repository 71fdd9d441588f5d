"""Signals end a command like an exception: through its `with` blocks, but without a traceback."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "hold_signals", "ignore_signals", "on_signals", "raise_signals"]

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
    """From now on, raise `Interrupted` at the first signal. Signals that were ignored stay ignored."""
    for number in _handled():
        signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From now on, ignore signals: for the end of a command, which is short and must be complete."""
    for number in _handled():
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Delay signals until the end of the block, for steps that must not be separated."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _handled()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        _interrupt(held[0], None)


@contextmanager
def on_signals(call: Callable[[int], object]) -> Iterator[None]:
    """Until the end of the block, call `call` with the number of each signal instead of raising it."""
    before = {number: signal.signal(number, lambda number, _: call(number)) for number in _handled()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handled() -> list[signal.Signals]:
    # A shell starts background jobs with SIGINT ignored; nohup does the same with SIGHUP.
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    ignore_signals()
    raise Interrupted(number)
