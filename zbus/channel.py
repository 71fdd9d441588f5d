"""A channel: where a subscriber's events arrive, for programs that wait in a thread.

Iteration sleeps within libzmq; `receive` and `select` poll, so that they can look at the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf
from types import TracebackType
from typing import Any, Generic, overload

import zmq
from zmq.backend import zmq_poll

from .errors import Unavailable
from .event import CLOSED, Closed, D, Event, Received
from .options import check_timeout
from .receiving.channel_base import (
    ChannelBase,
    E,
    F,
    Selected,
    SubscriptionBase,
    check_channels,
    first_ready,
    no_event_within,
)
from .receiving.queue import WAIT_MS, Ended
from .runtime.locks import TIMEOUT_MAX
from .runtime.timeouts import milliseconds

__all__ = ["Channel", "Subscription", "select"]

# While another thread receives from a channel, how long `select` waits before it asks for it again.
_SHARED_SECONDS = 0.02


class Channel(ChannelBase[D]):
    """The receiving end of a subscription. Any thread may use it, several at once share its events."""

    def __iter__(self) -> Iterator[Event[D]]:
        """Yield events until the channel is closed and drained.

        The fastest way to receive: no time-out to look after, so the thread sleeps within libzmq.
        """
        # `chain` walks through a batch 25 ns an event faster than `yield from` (measured).
        return chain.from_iterable(self._source.runs(self._report))

    def receive(self, timeout: float | None = None) -> Received[D] | Closed:
        """Return `(event, True)`, or `(None, False)` once the channel is closed and drained.

        The result also has these as attributes: `result.ok`, `result.event`.

        Args:
            timeout: seconds to wait for an event; `None` is for ever, 0 takes only what is there.

        Raises:
            Timeout: (a `TimeoutError`) nothing arrived in time. Retryable; nothing is lost.
            Canceled: the bus belongs to the parent of this forked process.
        """
        seconds = check_timeout(timeout)
        deadline = time.monotonic() + seconds
        evt = None
        try:
            while evt is None:
                evt = self._receive_one(deadline, seconds)
        except Ended:
            return CLOSED
        return Received((evt, True))

    def _receive_one(self, deadline: float, seconds: float) -> Event[D] | None:
        """Receive one frame, and report what went wrong before it."""
        self._check_not_in_use()
        lock = self._source.lock
        try:
            try:
                # Nobody else has it, as a rule, and then it need not be known for how long to wait (300 ns).
                if not lock.acquire(blocking=False) and not lock.acquire(timeout=_left(deadline)):
                    raise no_event_within(seconds)
                return self._source.left() or self._take(deadline, seconds)
            finally:
                lock.release_if_held()
                self._report()
        except BaseException:  # see `locks`
            lock.release_if_held()
            raise

    def _take(self, deadline: float, seconds: float) -> Event[D] | None:
        """Return the event in the next frame, waiting for one until `deadline`."""
        source = self._source
        if deadline != inf and source.must_poll():
            # A poll costs 1.3 us, but unlike an empty recv it raises nothing (3 us) and it survives signals.
            # Again until the time is really over: pyzmq returns early after several signals.
            while not zmq_poll([(source.handle, zmq.POLLIN)], min(WAIT_MS, milliseconds(_left(deadline)))):
                if time.monotonic() >= deadline:
                    raise no_event_within(seconds)
        return source.next()

    def _check_not_in_use(self) -> None:
        if self._source.lock.held():
            raise Unavailable("a signal handler cannot receive while its thread does: have a thread receive")

    def close(self) -> None:
        """Stop new events. What is buffered stays receivable; a blocked receiver wakes; twice is fine."""
        self._source.close()


def _left(deadline: float) -> float:
    """Return how many seconds there are until `deadline`; for ever is as long as a lock can wait."""
    return min(max(0.0, deadline - time.monotonic()), TIMEOUT_MAX)


class Subscription(SubscriptionBase[Channel[D]], Generic[D]):
    """A subscription: a channel of events until it is closed. Also a context manager and iterable."""

    def close(self) -> None:
        """Stop new events; what is buffered stays receivable. Closing twice is fine."""
        self._channel.close()

    def __iter__(self) -> Iterator[Event[D]]:
        return iter(self._channel)

    def __enter__(self) -> Subscription[D]:
        return self

    def __exit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        self.close()


@overload
def select(
    first: Channel[D], second: Channel[E], /, *, timeout: float | None = None
) -> Selected[Channel[D] | Channel[E], D | E]: ...
@overload
def select(
    first: Channel[D], second: Channel[E], third: Channel[F], /, *, timeout: float | None = None
) -> Selected[Channel[D] | Channel[E] | Channel[F], D | E | F]: ...
@overload
def select(*channels: Channel[D], timeout: float | None = None) -> Selected[Channel[D], D]: ...
def select(*channels: Channel, timeout: float | None = None) -> Selected[Channel, Any]:
    """Wait for several channels: return `(channel, event, True)` of the first that has an event.

    First in the order of the arguments, if several have. A channel that is closed and drained counts: then it
    is `(channel, None, False)`, so leave it out of the next call. The channels may be of different buses.

        channel, evt, ok = zbus.select(orders.channel(), metrics.channel(), timeout=1.0)

    Args:
        channels: at least one, each from `Subscription.channel`.
        timeout: seconds to wait for all of them together; `None` is for ever, 0 takes only what is there.

    Raises:
        TypeError: something else than a channel.
        Invalid: no channel at all.
        Timeout: (a `TimeoutError`) nothing arrived in time. Retryable; nothing is lost.
        Canceled: a bus belongs to the parent of this forked process.
    """
    check_channels(channels, Channel)
    seconds = check_timeout(timeout)
    deadline = time.monotonic() + seconds
    each = dict.fromkeys(channels)
    while True:
        late = time.monotonic() >= deadline
        for channel in each:
            channel._check_not_in_use()
        try:
            try:
                found = _look(each, 0.0 if late else deadline - time.monotonic())
            finally:
                _release_all(each)
        except BaseException:  # see `locks`
            _release_all(each)
            raise
        for channel in each:
            channel._report()
        if found is not None:
            return found
        if late:
            raise no_event_within(seconds)


def _look(channels: Iterable[Channel], seconds: float) -> Selected[Channel, Any] | None:
    """Return the first channel that is ready; if there is none, wait until one may be, and return `None`."""
    # One that another thread receives from is left to it, and asked for again soon.
    free, held = [], False
    for channel in channels:
        if channel._source.lock.acquire(blocking=False):
            free.append(channel)
        else:
            held = True
    found = first_ready(free)
    if found is None and seconds > 0:
        longest = milliseconds(min(seconds, _SHARED_SECONDS if held else WAIT_MS / 1000))
        zmq_poll([(channel._source.handle, zmq.POLLIN) for channel in free], longest)
    return found


def _release_all(channels: Iterable[Channel]) -> None:
    for channel in channels:
        channel._source.lock.release_if_held()
