"""Backlog: the bytes that wait in a publisher for its `drop` subscribers to take them.

libzmq counts frames, and a mark that is lowered may stop a link for good (see `room`). So a publisher counts
the bytes of its large frames instead. When they could fill half of what may wait, it sees whether its I/O
thread has written them all, and waits a little if not. A link whose socket stays full is let go: what waited
for it is freed, and it is connected again once its process has read what the kernel holds. What it missed is
told to it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection

from ..protocol.marks import Topic
from ..protocol.wire import encode_notice
from ..runtime.descriptors import socket_id, unix_sockets
from ..runtime.malloc_trim import note_large_bytes
from ..runtime.threads import sleep
from .links import Links

__all__ = ["Backlog"]

_ANNOUNCED_BYTES = 1 << 18  # by a notice, at least
_CHECK_SECONDS = 0.001
_STEPS = 8  # between half of the limit and all of it, so many looks


class Backlog:
    """That of one publisher. Not thread-safe: used under its lock.

    Attributes:
        check_due: whether it is time for a check.
    """

    def __init__(self, links: Links, capacity_bytes: int, emit: Callable[[bytes], None]) -> None:
        """Count what waits for `links`, up to `capacity_bytes`; `emit` sends a frame to all."""
        self.check_due = False
        self._links = links
        self._emit = emit
        self._limit = capacity_bytes
        self._sent = 0
        self._next = capacity_bytes // 2

    def announce(self, topic: Topic, system: str, kind: str, size: int) -> None:
        """Tell receivers that a large frame is about to come, unless they know."""
        if topic.announced < size:
            step = max(size, _ANNOUNCED_BYTES)
            self._emit(encode_notice(system, kind, step))
            topic.announced += step

    def add(self, topic: Topic, size: int) -> None:
        """Count a large frame that was announced."""
        topic.announced -= size
        note_large_bytes(size)
        self._sent += size
        self.check_due = self._sent > self._next

    def make_room(self, seconds: float) -> bool:
        """Wait, for some `seconds`, until all is written; return whether a link was let go instead."""
        stuck = self._await_written(self._links.dropping(), seconds)
        for ident in stuck:
            self._links.disconnect(ident)
        return bool(stuck)

    def _await_written(self, idents: Collection[str], seconds: float) -> list[str]:
        """Wait until all is written; return the ids of the links to let go."""
        stopped = self._links.stopped
        deadline = time.monotonic() + seconds
        full: set[str] = set()
        while idents:
            asleep = self._links.asleep()
            now_full = _full(idents)
            full = full & now_full if full else now_full
            # If it slept all the time, and may write, it has nothing to write.
            if not now_full and asleep is not None and asleep == self._links.asleep():
                full = set()
                break
            if time.monotonic() > deadline or (full and all(map(stopped, full))):
                break
            sleep(_CHECK_SECONDS)
        else:
            full = set()
        stuck = [ident for ident in full if self._sent >= self._limit or stopped(ident)]
        if stuck or not full:
            self._sent, self._next = 0, self._limit // 2
        else:
            self._next = self._sent + self._limit // 2 // _STEPS
        self.check_due = False
        return stuck


def _full(idents: Collection[str]) -> set[str]:
    """Return which of these have a connection that takes nothing now."""
    connections = {number: socket_id(peer) for number, _, peer in unix_sockets()}
    poll = select.poll()
    for number, ident in connections.items():
        if ident in idents:
            poll.register(number, select.POLLOUT)
    writable = {number for number, _ in poll.poll(0)}
    return {ident for number, ident in connections.items() if ident in idents and number not in writable}
