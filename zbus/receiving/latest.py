"""Overflow `latest`: only the newest event of each (system, kind, path) waits for a reader.

A full queue keeps its oldest, so the queue of a slow reader must never be full: a thread reads ahead of the
channel's reader. ZeroMQ's own CONFLATE knows no keys, and collapses subscriptions too.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress

import zmq
from zmq.backend import zmq_poll

from ..errors import Canceled
from ..event import Event
from ..protocol.decoder import Decoder
from ..runtime.locks import Lock
from ..runtime.threads import start
from .queue import WAIT_MS, Ended, SocketQueue

__all__ = ["Latest"]

_CLOSE_SECONDS = 0.2

Key = tuple[str, str, str]


class Latest:
    """Stands between a queue and its channel and offers what a queue does, but events instead of frames.

    Attributes:
        lock: held by whoever calls `recv` or waits for the handle.
        handle: a descriptor, readable while there is something to receive.
        superseded: how many events a newer one has taken the place of.
    """

    def __init__(self, queue: SocketQueue, decoder: Decoder, capacity: int, capacity_bytes: int) -> None:
        """Read ahead; at most so many keys and bytes wait, then what changed longest ago is lost."""
        self.lock = Lock()
        self.superseded = 0
        self._queue = queue
        self._decoder = decoder
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._events: OrderedDict[Key, tuple[Event, int]] = OrderedDict()
        self._events_lock = Lock()  # of the events and the bell
        self._ended = False
        self._refusal = ""
        # The bell holds one byte while there are events, or the end, to receive.
        self.handle = self._bell = -1
        self.handle, self._bell = os.pipe()
        self._thread = start("zbus-latest", self._read_ahead)

    narrowed = False

    def widen_if_empty(self) -> None:
        """Do what a `SocketQueue` does; whoever reads ahead does it."""

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._queue.closing

    def _read_ahead(self) -> None:
        queue, decoder = self._queue, self._decoder
        with suppress(Ended, zmq.ZMQError):
            while True:
                try:
                    with queue.lock:
                        frame = queue.recv(0)
                        evt = decoder.decode(frame)
                except zmq.Again:
                    continue
                if evt is not None:
                    self._put(evt, len(frame))
                    continue
                if batch := list(decoder.batch or ()):
                    decoder.batch = None
                    for evt in batch:
                        self._put(evt, len(frame) // len(batch))
        with self._events_lock:
            self._ended = True
            if not self._events:
                os.write(self._bell, b"\0")

    def _put(self, evt: Event, size: int) -> None:
        key = (evt.system, evt.kind, evt.path)
        with self._events_lock:
            if not self._events:
                os.write(self._bell, b"\0")
            if before := self._events.get(key):
                self.superseded += 1
                self._bytes -= before[1]
            elif len(self._events) == self._capacity:
                self._forget_oldest()
            self._events[key] = evt, size
            self._events.move_to_end(key)  # a publisher's events stay in order
            self._bytes += size
            while self._bytes > self._capacity_bytes and len(self._events) > 1:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._bytes -= self._events.popitem(last=False)[1][1]
        self._decoder.lose(1)

    def recv(self, flags: int = 0) -> Event:
        """Return the event whose key changed longest ago, and forget it.

        Raises:
            zmq.Again: there is none, and `flags` is NOBLOCK.
            Ended: there will be none.
        """
        if self._refusal:
            raise Canceled(self._refusal)
        while True:
            with self._events_lock:
                if self._events:
                    _, (evt, size) = self._events.popitem(last=False)
                    self._bytes -= size
                    if not self._events and not self._ended:
                        os.read(self.handle, 1)
                    return evt
                if self._ended:
                    raise Ended
            if flags & zmq.NOBLOCK:
                raise zmq.Again
            zmq_poll([(self.handle, zmq.POLLIN)], WAIT_MS)

    def close(self) -> None:
        """Stop new events; those that have arrived stay receivable; twice is fine."""
        self._queue.close()
        self._thread.join(_CLOSE_SECONDS)  # a moment, unless this is a signal handler amid `_put`

    def after_fork_in_child(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""
        self._queue.after_fork_in_child(reason)
        self._refusal = reason
        self.lock = Lock()

    def __del__(self) -> None:
        for number in {self.handle, self._bell} - {-1}:
            os.close(number)
