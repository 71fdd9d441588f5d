"""Backlog: the bytes that wait in a publisher until its `drop` subscribers read them.

libzmq's queues are limited by number of frames, and lowering that limit may stop a link for good (see
`receiving.capacity`). So a publisher counts the bytes of its large frames itself:

    half of capacity_bytes sent ─► has the I/O thread written everything? ─► yes: count from 0 again
                                   no: wait a little; if a link's connection stays full, disconnect it

A disconnected link's frames are freed. It is connected again once its process has read what the kernel still
holds, and it is told how much it missed.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import zmq

from ..protocol.marks import Topic
from ..protocol.wire import encode_notice
from ..runtime.descriptors import socket_id, unix_sockets
from ..runtime.malloc_trim import note_large_bytes
from ..runtime.threads import sleep
from .links import Links
from .sockets import WOULD_BLOCK

__all__ = ["Backlog"]

_ANNOUNCED_BYTES = 1 << 18  # by one notice, at least
_CHECK_SECONDS = 0.001
_STEPS = 8  # so many checks between half of the limit and all of it


class Backlog:
    """The backlog of one publisher. Not thread-safe: used under its lock.

    Attributes:
        check_due: whether so much was sent that `make_room` must be called.
    """

    def __init__(self, links: Links, capacity_bytes: int, emit_lossy: Callable[[bytes], None]) -> None:
        """Count what may wait for `links`, up to `capacity_bytes`; `emit_lossy` sends to the `drop` ones."""
        self.check_due = False
        self._links = links
        self._emit_lossy = emit_lossy
        self._limit = capacity_bytes
        self._sent = 0
        self._next = capacity_bytes // 2

    def announce(self, topic: Topic, system: str, kind: str, size: int) -> None:
        """Send a notice that a large frame is about to follow, unless an earlier notice covers it."""
        if topic.announced < size:
            step = max(size, _ANNOUNCED_BYTES)
            self._emit(encode_notice(system, kind, step))
            topic.announced += step

    def _emit(self, notice: bytes) -> None:
        # Every ingress gets it, whatever its topics. A full `block` queue must not stop it, or it would hold
        # up those who send what it does not get. Fillers bound the bytes of such a queue anyway.
        if (block := self._links.block) is not None:
            with suppress(*WOULD_BLOCK):
                block(notice, zmq.NOBLOCK)
        self._emit_lossy(notice)

    def add(self, topic: Topic, size: int) -> None:
        """Count a large frame. It was announced."""
        topic.announced -= size
        note_large_bytes(size)
        self._sent += size
        self.check_due = self._sent > self._next

    def make_room(self, seconds: float) -> bool:
        """Wait up to `seconds` until all is written; return whether a link was disconnected instead."""
        stuck = self._await_written(self._links.dropping(), seconds)
        for ident in stuck:
            self._links.disconnect(ident)
        return bool(stuck)

    def _await_written(self, idents: Collection[str], seconds: float) -> list[str]:
        """Wait until everything is written; return the ids of the links to disconnect."""
        stopped = self._links.stopped
        deadline = time.monotonic() + seconds
        full: set[str] = set()
        while idents:
            asleep = self._links.asleep()
            now_full = _full(idents)
            full = full & now_full if full else now_full
            # If the I/O thread slept all the time, and could have written, it has nothing left to write.
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
    """Return which of these have a connection that the kernel takes no more bytes for."""
    connections = {number: socket_id(peer) for number, _, peer in unix_sockets()}
    poll = select.poll()
    for number, ident in connections.items():
        if ident in idents:
            poll.register(number, select.POLLOUT)
    writable = {number for number, _ in poll.poll(0)}
    return {ident for number, ident in connections.items() if ident in idents and number not in writable}
