"""The default bus, which the functions of `zbus` use; those of `zbus.aio` have another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..errors import Unavailable
from ..runtime.lifecycle import process_exiting
from ..runtime.locks import TIMEOUT_MAX, Lock
from ..runtime.reports import emit_reports
from .bus_base import BusBase

__all__ = ["DefaultBus"]

_OPENING_SECONDS = 1.0

B = TypeVar("B", bound=BusBase[Any])


class DefaultBus(Generic[B]):
    """One bus of a process. It opens at its first use, and again after it was closed or after a fork.

    Attributes:
        bus: the bus that was opened last.
    """

    def __init__(self, open: Callable[[], B]) -> None:
        """Prepare to `open` the bus."""
        self.bus: B | None = None
        self._open = open
        # Re-entrant: a signal handler may use the bus while its thread is opening it.
        self._lock = Lock()

    def get(self) -> B:
        """Return the bus, open. Any thread and any signal handler may call this."""
        bus = self.bus
        if bus is not None and not bus.closed:
            return bus
        try:
            # At the end of the process, a thread that no longer exists may hold the lock.
            timeout = _OPENING_SECONDS if process_exiting() else TIMEOUT_MAX
            opened: list[B] = []
            if not self._lock.run(lambda: opened.append(self._open_once()), timeout):
                raise Unavailable("another thread is opening the default bus: try again", retryable=True)
            return opened[0]
        finally:
            emit_reports()

    def _open_once(self) -> B:
        if self.bus is None or self.bus.closed:
            opened = self._open()
            if self.bus is None or self.bus.closed:  # otherwise a signal handler was faster
                self.bus = opened
        return self.bus
