"""Flush: wait until the subscribers' processes have read what was sent, while the bus stays open.

Sent bytes wait in two places: in libzmq, until its I/O thread has written them, and in the kernel, until the
peer has read them. The kernel tells of both: whether the I/O thread sleeps, and how many bytes are unread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ..errors import Timeout
from ..runtime.descriptors import socket_id, unix_sockets, unread_bytes
from ..runtime.io_threads import IoThreads
from ..runtime.threads import sleep

__all__ = ["FirstWrites", "flush_timeout_error", "flushing", "taken"]

# The first pause between two checks, and the longest; each is twice as long as the one before.
_SOON_SECONDS = 0.00005
_LATER_SECONDS = 0.005
# Where I/O threads cannot be seen: how long nothing must have been unread.
_GRACE_SECONDS = 0.02
# Of the first writes, a send waits for so many in any case, and then for as many as take a 20th of the time.
_FIRST_WRITES = 64
_OTHERWISE_BUSY = 20


def flushing(
    threads: IoThreads | None,
    idents: Callable[[], Collection[str]],
    seconds: float,
    begun: float | None = None,
) -> Iterator[float]:
    """Check until the peers have read everything that was sent; between checks yield how long to wait.

    It takes no lock, so a signal handler may run it, and a process that exits may, too.

    Args:
        threads: the I/O threads of the context; `None` if there are none yet, so that nothing was sent.
        idents: returns the ids of the linked ingresses.
        seconds: the timeout.
        begun: since when (monotonic); now if `None`.

    Raises:
        Timeout: a peer has not read everything by then.
    """
    deadline = (time.monotonic() if begun is None else begun) + seconds
    behind: list[int] = []
    pause, calm = _SOON_SECONDS, False
    while threads is not None:
        asleep = threads.asleep()
        if asleep is not None:
            behind = _behind(idents(), behind) if behind else []
            behind = behind or _behind(idents(), None)
            # The kernel wakes an I/O thread that waits for room before it says that nothing is unread. So if
            # the thread slept all the time and nothing is unread, nothing is left to write.
            if not behind and threads.asleep() == asleep and (threads.visible or calm):
                return
            calm = not behind
        if (left := deadline - time.monotonic()) <= 0:
            raise flush_timeout_error(seconds)
        yield min(left, pause if threads.visible else max(pause, _GRACE_SECONDS))
        pause = min(2 * pause, _LATER_SECONDS)


def taken(threads: IoThreads | None, idents: Collection[str]) -> set[str]:
    """Return which of these ingresses have read everything that was sent to them, if that is certain."""
    asleep = threads.asleep() if threads is not None else ()
    if asleep is None:
        return set()
    unread = {
        socket_id(peer)
        for number, _, peer in unix_sockets()
        if socket_id(peer) in idents and unread_bytes(number)
    }
    # As in `flushing`: an I/O thread that slept all the time had nothing left to write to the others.
    return set(idents) - unread if threads is None or threads.asleep() == asleep else set()


def flush_timeout_error(seconds: float, who: str = "", **details: Any) -> Timeout:
    """Return the error of a flush that timed out; `who` says whom it waited for."""
    return Timeout(
        f"{who or 'a subscriber has not taken what was sent'} within {seconds:g} s: try again, or see with"
        " 'zbus ls' who is on the bus",
        timeout=seconds,
        **details,
    )


def _behind(idents: Collection[str], among: Iterable[int] | None) -> list[int]:
    """Return the descriptors, all or `among` these, of connections whose peer has not read everything."""
    if not (wanted := set(idents)):
        return []
    found = unix_sockets(among)
    return [number for number, _, peer in found if socket_id(peer) in wanted and unread_bytes(number)]


class FirstWrites:
    """Makes the first send of a topic wait until the I/O thread has written it.

    So the event of a process that sends once and ends, in whatever way, is in the kernel by then. That costs
    0.1 ms, so a publisher of many topics spends only a 20th of its time on it.
    """

    def __init__(self, threads: Callable[[], IoThreads | None]) -> None:
        """Wait for the threads that `threads` returns, if there are any."""
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
