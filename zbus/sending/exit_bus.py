"""A bus that opens when its process has closed all others on its way out, for what is sent that late.

An `atexit` function that was registered before zbus was imported may send then, and so may a logging handler,
a finalizer, or a `__del__` while modules are torn down. Nobody closes such a bus: there is no later moment.
So it has no file on the roster and no Python thread, its sockets are never finalized, and each send is handed
over before it returns.
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
    """Waits until what was just sent is handed over."""

    def __init__(
        self, threads: Callable[[], IoThreads | None], idents: Callable[[], Collection[str]], linger: float
    ) -> None:
        """Wait `linger` seconds at most, but once only for somebody who takes nothing."""
        self._threads = threads
        self._idents = idents
        self._linger = linger
        self._stuck = False

    def wait(self, limit: float) -> None:  # noqa: ARG002  # which is for buses that live on
        """Wait for the peers."""
        try:
            for pause in flushing(self._threads(), self._idents, 0.0 if self._stuck else self._linger):
                sleep(pause)
            self._stuck = False
        except Timeout:
            self._stuck = True


class ExitLock(Lock):  # type: ignore[misc]  # as above
    """A lock that somebody may hold who is no more: the interpreter ends its daemon threads anywhere."""

    def __enter__(self, blocking: bool = True, timeout: float = -1) -> bool:  # as above
        if not self.acquire(timeout=_LOCK_SECONDS):
            raise zmq.Again  # which has a send try again, up to its time-out
        return True


class ExitSocket(zmq.Socket[bytes]):
    """A socket that stays open when it is garbage."""

    def __del__(self) -> None:
        """Do nothing. pyzmq would close it, and warn."""


class ExitContext(zmq.Context[Any]):
    """A context that stays when it is garbage. pyzmq would wait in it for its sockets."""

    _socket_class = ExitSocket

    def __del__(self) -> None:
        """Do nothing."""
