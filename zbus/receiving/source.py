"""Sources: where a channel takes its events from, and how it waits for them.

A channel, threaded or of asyncio, knows nothing of frames, queues or overflow policies. It takes the lock of
its source and asks it for the next event:

    SUB socket ── SocketQueue ── Source ── Channel
                  frames         events    the waiting

`FrameSource` decodes a frame when the reader takes it, `LatestSource` reads ahead. The table in `overflow`
says which policy uses which.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Protocol

import zmq
from zmq.backend import zmq_poll

from ..errors import Canceled
from ..event import Event
from ..protocol.decoder import Decoder
from ..protocol.marks import Mark
from ..protocol.wire import sent_at
from ..runtime.locks import Lock
from .notices import AnnouncedBytes
from .queue import Ended, SocketQueue

__all__ = ["FrameSource", "Source", "TaskWaker"]

# How many marks are taken at most at one look whether an event waits.
_MARKS_NOTED = 1000


class TaskWaker(Protocol):
    """What the tasks of an event loop wait with until the handle is readable."""

    @property
    def waits(self) -> bool:
        """Whether a task waits, and is not about to be woken."""

    def notify_threadsafe(self) -> None:
        """Wake all tasks that wait."""

    def close_soon(self) -> None:
        """Stop watching the handle."""


class Source(ABC):
    """The events of one channel. Hold `lock` to call `left`, `must_poll`, `next` and `take`, and to wait.

    Attributes:
        queue: the frames that have arrived.
        decoder: makes events of them, and counts what goes wrong.
        lock: held by whoever takes an event or waits for the handle, so that threads may share a channel.
        handle: what to poll: a socket or a descriptor, readable when there may be an event or the end.
        superseded: how many events a newer one has replaced.
        waker: what tasks wait with, if the channel is one of asyncio and tasks have waited.
    """

    superseded = 0
    waker: TaskWaker | None = None

    def __init__(
        self, queue: SocketQueue, decoder: Decoder, lock: Lock, handle: zmq.Socket[bytes] | int
    ) -> None:
        self.queue = queue
        self.decoder = decoder
        self.lock = lock
        self.handle = handle
        self._marks: dict[tuple[bytes, bytes, bytes], int] = {}

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self.queue.closing

    def fileno(self) -> int:
        """Return the descriptor of the handle."""
        return self.handle if isinstance(self.handle, int) else self.handle.fileno()

    def left(self) -> Event | None:
        """Return the next event of a batch that was received before. The handle does not show it."""
        return None

    def must_poll(self) -> bool:
        """Return whether to wait for the handle before `next`. While it closes, nothing more arrives."""
        return not self.queue.closing

    @abstractmethod
    def next(self) -> Event | None:
        """Return the next event, when `left` has none; wait for it, `WAIT_MS` at most.

        Returns:
            The event, or `None` if there is none yet: call it again.

        Raises:
            Ended: closed and drained, there will be none.
            Canceled: the bus belongs to the parent of this forked process.
        """

    @abstractmethod
    def take(self) -> Event | None:
        """Return the next event if it is here, also one that is `left`, else `None`; raise as `next` does."""

    @abstractmethod
    def waiting(self) -> bool | None:
        """Return whether an event waits for a reader; `None` if another thread is taking or awaiting it.

        Any thread may call this. It takes nothing that a reader would get, and disturbs nobody.
        """

    @abstractmethod
    def lag(self) -> float | None:
        """Return how many seconds an event has waited, if that is known; see `Observer`.

        It is one that the reader has taken since the last call, or the oldest one that waits.
        """

    def runs(self, report: Callable[[], None]) -> Iterator[Iterable[Event]]:
        """Yield events until the source is closed and drained, as many at a time as arrived together.

        Args:
            report: called without the lock when something may have gone wrong. It is a method of the channel,
                so this generator also keeps the channel alive.
        """
        while True:
            try:
                with self.lock:
                    evt = self.left() or self.next()
            except Ended:
                return
            report()
            if evt is not None:
                yield (evt,)

    def close(self) -> None:
        """Stop new events. What has arrived stays receivable; whoever waits wakes; twice is fine."""
        self.queue.close()
        if (waker := self.waker) is not None:
            waker.notify_threadsafe()
            waker.close_soon()

    def expect(self, announced: AnnouncedBytes) -> float:
        """Keep to the capacity in bytes: these large frames are about to come. For any thread.

        Returns:
            The seconds after which to call it again in any case, or 0.
        """
        queue = self.queue
        counted = queue.counts
        sizes = [size for topic, size in announced.items() if self.decoder.wants(*topic)]
        if sizes:
            queue.announce(sum(sizes))
        seconds = queue.adjust(announced=bool(sizes))
        if (counted or seconds) and (waker := self.waker) is not None:
            waker.notify_threadsafe()  # a look at the socket takes away what its descriptor would say
        return seconds

    def learn(self, mark: Mark) -> bool:
        """Account for a mark, unless there are frames to take before. For any thread.

        Returns:
            Whether a receiver has the lock. As a rule it waits, and the queue is empty; then the mark has to
            go through it.
        """
        looked = self.queue.lock.run(lambda: self._learn(mark))
        if looked and (waker := self.waker) is not None:
            waker.notify_threadsafe()  # as in `expect`
        return not looked

    def note(self, mark: Mark) -> None:
        """Note a mark that has come to the process: if all before it was taken, it may be what waits."""
        if self.decoder.awaits(mark.stream, mark.stamp.seq) and len(self._marks) < _MARKS_NOTED:
            self._marks[mark.stream] = mark.stamp.seq

    def _learn(self, mark: Mark) -> None:
        if self.decoder.batch is None and not self.queue.closing and not self.queue.waits():
            self.decoder.decode(mark.frame)
            self.decoder.batch = None

    def after_fork_in_child(self, reason: str) -> None:
        """Make every use in a forked child fail at once."""
        self.decoder.batch = None
        self.queue.after_fork_in_child(reason)
        self.lock = self.queue.lock
        self.waker = None  # the loop, and what it waits with, are the parent's


class FrameSource(Source):
    """Decodes a frame when the reader takes it, for `drop` and `block`. What waits, waits in the socket."""

    def __init__(self, queue: SocketQueue, decoder: Decoder) -> None:
        super().__init__(queue, decoder, queue.lock, queue.handle)

    def left(self) -> Event | None:
        """Return the next event of the batch that was taken last, if there is one."""
        return self.decoder.rest()

    def must_poll(self) -> bool:
        """Return whether to wait for the handle before `next`; widen a narrowed queue that is empty first."""
        queue = self.queue
        if queue.closing or queue.held is not None:
            return False
        if queue.capacity.narrowed:
            queue.widen_if_empty()
        return True

    def next(self) -> Event | None:
        """Return the event of the next frame, or the first of its batch; see `Source.next`."""
        decoder = self.decoder
        try:
            return decoder.decode(self.queue.recv(0)) or decoder.rest()
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            raise _failed(error) from error

    def take(self) -> Event | None:
        """Return the next event if it is here; see `Source.take`."""
        decoder = self.decoder
        evt = decoder.rest()
        try:
            while evt is None:
                evt = decoder.decode(self.queue.recv(zmq.NOBLOCK)) or decoder.rest()
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            raise _failed(error) from error
        return evt

    def waiting(self) -> bool | None:
        """Return whether an event waits, be it the rest of a batch; see `Source.waiting`."""
        found: list[bool] = []
        self.lock.run(lambda: found.append(self._waits()))
        return found[0] if found else None

    def _waits(self) -> bool:
        if length_hint(self.decoder.batch or ()):
            return True
        if not self.queue.closing and self.waker is not None and self.waker.waits:
            # A look at the socket takes away what its descriptor would say to the tasks that wait. They have
            # found the socket empty, so the descriptor is readable if something has arrived since.
            return bool(zmq_poll([(self.fileno(), zmq.POLLIN)], 0))
        self._marks = {key: seq for key, seq in self._marks.items() if self.decoder.awaits(key, seq)}
        return self._event_waits() if self._marks and not self.queue.closing else self.queue.waits()

    def _event_waits(self) -> bool:
        """Return whether an event waits in the socket; decode the marks before it. Hold the lock.

        This takes an event out of the socket, which makes room for another one. So it is only called when a
        mark is known to wait, which has taken up the room of one.
        """
        queue, decoder = self.queue, self.decoder
        for _ in range(_MARKS_NOTED):
            if (frame := queue.peek()) is None:
                return False
            if decoder.tells(frame):
                return True
            decoder.decode(queue.recv(zmq.NOBLOCK))
            decoder.batch = None
        return True

    def lag(self) -> float | None:
        """Return how long the next frame has waited, if it is known, else one that the reader has taken."""
        sample, held = self.queue.sample(), self.queue.held
        frame, until = (sample or (b"", 0.0)) if held is None else (held, time.time())
        sent = sent_at(frame)
        return None if sent is None else max(0.0, until - sent)

    def runs(self, report: Callable[[], None]) -> Iterator[Iterable[Event]]:
        """Yield events as `Source.runs` does, but a batch as a whole.

        This is the loop behind `for evt in sub`, so `left` and `next` are written out. So is
        `with queue.lock`, which takes 70 ns longer than the two calls (measured).
        """
        queue, decoder, decode = self.queue, self.decoder, self.decoder.decode
        while True:
            lock = queue.lock
            try:
                try:
                    lock.acquire()
                    evt = decoder.rest() if decoder.batch is not None else None
                    if evt is None:
                        evt = decode(queue.recv(0))
                    lock.release()
                except BaseException:
                    lock.release_if_held()
                    raise
            except Ended:
                return
            except zmq.Again:
                continue
            except zmq.ZMQError as error:
                raise _failed(error) from error
            except BaseException:  # see `locks`
                lock.release_if_held()
                raise
            if evt is not None:
                yield (evt,)
                continue
            report()
            if (batch := decoder.batch) is not None:
                yield batch


def _failed(error: zmq.ZMQError) -> Canceled:
    return Canceled(f"the channel's socket failed: {error.strerror}")
