"""Flushing: waiting until the peers' processes have read what was sent, while the bus lives on.

It asks the kernel what each connection's peer has not read, and whether the I/O thread has written all that
it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ..errors import Timeout
from ..runtime.descriptors import socket_id, unix_sockets, unread_bytes
from ..runtime.io_threads import IoThreads
from ..runtime.threads import sleep

__all__ = ["FirstWrites", "flush_timeout_error", "flushing"]

# The first pause between two looks, each twice as long as the one before, and the longest.
_SOON_SECONDS = 0.00005
_LATER_SECONDS = 0.005
# Where I/O threads cannot be seen, how long everything must have been read.
_GRACE_SECONDS = 0.02
# Of the writes that a send waits for: so many always, and then as many as take a twentieth of the time.
_FIRST_WRITES = 64
_OTHERWISE_BUSY = 20


def flushing(
    threads: IoThreads | None, idents: Callable[[], Collection[str]], seconds: float
) -> Iterator[float]:
    """Look until the peers have read all that was sent; between two looks yield how long to wait.

    It takes no lock, so a signal handler may run it, and so may a process on its way out.

    Args:
        threads: of the context; `None` if it was not needed yet, so that nothing was sent.
        idents: returns the ids of the ingresses that are connected.
        seconds: how long that may take.

    Raises:
        Timeout: it takes longer.
    """
    deadline = time.monotonic() + seconds
    behind: list[int] = []
    pause, calm = _SOON_SECONDS, False
    while threads is not None:
        asleep = threads.asleep()
        if asleep is not None:
            behind = _behind(idents(), behind) if behind else []
            behind = behind or _behind(idents(), None)
            # A thread that waits for room in a connection is woken before the kernel says that this is empty.
            # So if it slept all the time, and nothing is unread, it has nothing left to write.
            if not behind and threads.asleep() == asleep and (threads.visible or calm):
                return
            calm = not behind
        if (left := deadline - time.monotonic()) <= 0:
            raise flush_timeout_error(seconds)
        yield min(left, pause if threads.visible else max(pause, _GRACE_SECONDS))
        pause = min(2 * pause, _LATER_SECONDS)


def flush_timeout_error(seconds: float, who: str = "", **details: Any) -> Timeout:
    """Return what a flush raises that took longer than it may; `who` says whom it has waited for."""
    return Timeout(
        f"{who or 'a subscriber has not taken what was sent'} within {seconds:g} s: try again, or see with"
        " 'zbus ls' who is on the bus",
        timeout=seconds,
        **details,
    )


def _behind(idents: Collection[str], among: Iterable[int] | None) -> list[int]:
    """Return the descriptors, of all or of `among`, of connections whose peer has not read everything."""
    wanted = set(idents)
    found = unix_sockets(among)
    return [number for number, _, peer in found if socket_id(peer) in wanted and unread_bytes(number)]


class FirstWrites:
    """Waits until the I/O thread has written what was just sent, for sends that are the first of their kind.

    A process that ends at once, however it does, has then handed its event over to the kernel. It costs 0.1
    ms, so a publisher of many topics does it only as often as it does not feel it.
    """

    def __init__(self, threads: Callable[[], IoThreads | None]) -> None:
        """Watch the threads that `threads` returns, if there are any."""
        self._threads = threads
        self._left = _FIRST_WRITES
        self._next = 0.0

    def wait(self, limit: float) -> None:
        """Wait, `limit` seconds at most."""
        start = time.monotonic()
        if self._left > 0:
            self._left -= 1
        elif start < self._next:
            return
        threads = self._threads()
        if threads is None or not threads.visible:
            return
        pause = _SOON_SECONDS
        while threads.asleep() is None and time.monotonic() - start < limit:
            sleep(pause)
            pause = min(2 * pause, _LATER_SECONDS)
        now = time.monotonic()
        self._next = now + _OTHERWISE_BUSY * (now - start)
