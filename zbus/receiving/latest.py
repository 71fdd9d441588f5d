"""Overflow `latest`: only the newest event of each (system, kind, path) waits for a reader.

A full queue keeps its oldest frames. To keep the newest instead, the queue of a slow reader must never be
full, so a thread reads ahead of the channel's reader. ZeroMQ's own CONFLATE knows no keys, and collapses
subscriptions too.

    SocketQueue ──> thread "zbus-latest": decode, replace ──> events by key ──> reader
                    under the queue's lock                    under the events lock

A pipe tells the reader: it holds one byte while there are events, or the end, to receive. So it can be polled
like a socket.
"""

from __future__ import annotations

import os
import time
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
from .source import Source

__all__ = ["LatestSource"]

_CLOSE_SECONDS = 0.2

Key = tuple[str, str, str]


class LatestSource(Source):
    """Reads ahead, and keeps the newest event of each key."""

    def __init__(self, queue: SocketQueue, decoder: Decoder, capacity: int, capacity_bytes: int) -> None:
        """Read ahead; at most so many keys and bytes wait, then the key that changed longest ago is lost."""
        self.superseded = 0
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._events: OrderedDict[Key, tuple[Event, int]] = OrderedDict()
        self._events_lock = Lock()  # of the events and the pipe
        self._ended = False
        self._refusal = ""
        self._read_end = self._write_end = -1
        self._read_end, self._write_end = os.pipe()
        super().__init__(queue, decoder, Lock(), self._read_end)
        self._thread = start("zbus-latest", self._read_ahead)

    def _read_ahead(self) -> None:
        queue, decoder = self.queue, self.decoder
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
                os.write(self._write_end, b"\0")

    def _put(self, evt: Event, size: int) -> None:
        key = (evt.system, evt.kind, evt.path)
        with self._events_lock:
            if not self._events:
                os.write(self._write_end, b"\0")
            if before := self._events.get(key):
                self.superseded += 1
                self._bytes -= before[1]
            elif len(self._events) == self._capacity:
                self._drop_oldest()
            self._events[key] = evt, size
            self._events.move_to_end(key)  # a publisher's events stay in order
            self._bytes += size
            while self._bytes > self._capacity_bytes and len(self._events) > 1:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._bytes -= self._events.popitem(last=False)[1][1]
        self.decoder.lose(1)

    def next(self) -> Event | None:
        """Return the event whose key changed longest ago, and forget it; see `Source.next`."""
        evt = self.take()
        if evt is None:
            zmq_poll([(self.handle, zmq.POLLIN)], WAIT_MS)
            evt = self.take()
        return evt

    def take(self) -> Event | None:
        """Return the event whose key changed longest ago, if there is one; see `Source.take`."""
        if self._refusal:
            raise Canceled(self._refusal)
        with self._events_lock:
            if self._events:
                _, (evt, size) = self._events.popitem(last=False)
                self._bytes -= size
                if not self._events and not self._ended:
                    os.read(self._read_end, 1)
                return evt
            if self._ended:
                raise Ended
        return None

    def waiting(self) -> bool | None:
        """Return whether events wait; see `Source.waiting`."""
        return bool(self._events)

    def lag(self) -> float | None:
        """Return how long the oldest event that waits has waited, if it tells when it was sent."""
        try:
            evt, _ = next(iter(self._events.values()))
        except (StopIteration, RuntimeError):  # none is left, or they are changing
            return None
        return None if evt.time is None else max(0.0, time.time() - evt.time)

    def close(self) -> None:
        """Stop new events; those that have arrived stay receivable; twice is fine."""
        self.queue.close()
        self._thread.join(_CLOSE_SECONDS)  # a moment, unless this is a signal handler amid `_put`
        if (waker := self.waker) is not None:
            waker.notify_threadsafe()  # and goes on watching: the end is still to come by the pipe

    def after_fork_in_child(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""
        super().after_fork_in_child(reason)
        self._refusal = reason

    def __del__(self) -> None:
        for number in {self._read_end, self._write_end} - {-1}:
            os.close(number)
