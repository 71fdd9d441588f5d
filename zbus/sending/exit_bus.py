"""A bus that is opened while its process exits, after all open buses were closed.

Code that runs so late may still send: an `atexit` function registered before zbus was imported, a logging
handler, a finalizer, a `__del__` while modules are torn down. There is no later moment to close such a bus.
So it has no file on the roster and no Python thread, its sockets are never finalized, and each `send` waits
until its event is in the subscribers' processes.

    atexit: buses closed ─► send: opens this bus, sends, flushes, returns ─► ... ─► the process is gone
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import zmq

from ..errors import Timeout
from ..runtime.io_threads import IoThreads
from ..runtime.locks import Lock
from ..runtime.threads import sleep
from .flush import flushing

__all__ = ["ExitContext", "ExitLock", "FlushEachSend"]

_LOCK_SECONDS = 0.2


class FlushEachSend:
    """Waits after each send until the peers have read what was sent."""

    def __init__(
        self, threads: Callable[[], IoThreads | None], idents: Callable[[], Collection[str]], linger: float
    ) -> None:
        """Wait `linger` seconds at most, but not again while a peer that reads nothing still does not."""
        self._threads = threads
        self._idents = idents
        self._linger = linger
        self._stuck = False

    def wait(self, limit: float) -> None:  # noqa: ARG002  # the limit is for buses that live on
        """Wait until the peers have read everything."""
        try:
            for pause in flushing(self._threads(), self._idents, 0.0 if self._stuck else self._linger):
                sleep(pause)
            self._stuck = False
        except Timeout:
            self._stuck = True


class ExitLock(Lock):  # type: ignore[misc]  # as above
    """A lock whose holder may be gone: at exit the interpreter stops its daemon threads wherever they are."""

    def __enter__(self, blocking: bool = True, timeout: float = -1) -> bool:  # as above
        if not self.acquire(timeout=_LOCK_SECONDS):
            raise zmq.Again  # so the send tries again until its timeout
        return True


class ExitSocket(zmq.Socket[bytes]):
    """A socket that stays open when it is garbage collected."""

    def __del__(self) -> None:
        """Do nothing. pyzmq would close it, and warn."""


class ExitContext(zmq.Context[Any]):
    """A context that survives garbage collection, in which pyzmq would wait for its sockets."""

    _socket_class = ExitSocket

    def __del__(self) -> None:
        """Do nothing."""
