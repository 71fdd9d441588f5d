"""What the channels of `zbus` and of `zbus.aio` share: everything except the waiting.

A channel takes events from its `Source`. It reports what went wrong, by `logging` and the callbacks of the
subscription, always after it has released the lock of the source.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Generic, Literal, TypeVar

from ..errors import Invalid, Timeout
from ..event import D, Event, Gap, Mismatch
from ..options import SubscriptionRequest
from ..runtime.reports import report
from ..runtime.uncopyable import Uncopyable
from .queue import Ended, SocketQueue
from .source import Source

__all__ = [
    "ChannelBase",
    "Selected",
    "SubscriptionBase",
    "check_channels",
    "first_ready",
    "no_event_within",
]

_LOG_INTERVAL = 5.0
_REASON_CHARS = 500


class ChannelBase(Uncopyable, Generic[D]):
    """The receiving end of a subscription.

    Attributes:
        system, kind: the patterns as given; `kind` is `None` if every kind matches.
        overflow: what happens when its queue is full: `"drop"`, `"block"` or `"latest"`.
        capacity: how many events it holds.
        capacity_bytes: how many bytes of events it holds, within a factor of two.
    """

    _instead = "share it as it is, and have another process subscribe by itself"

    def __init__(
        self,
        bus: object,
        request: SubscriptionRequest,
        source: Source,
        discard: Callable[[SocketQueue], None],
    ) -> None:
        """Called by `Bus.subscribe`; `discard` closes a queue without waiting for anything."""
        self._bus = bus  # keeps the bus open as long as a channel of it is in use
        self.system = request.system.pattern
        self.kind = None if request.kind is None else request.kind.pattern
        self.overflow = request.overflow
        self.capacity = request.capacity
        self.capacity_bytes = request.capacity_bytes
        self._on_gap = request.on_gap
        self._on_error = request.on_error
        self._discard = discard
        self._source = source
        self._decoder = source.decoder
        self._reported_malformed = 0
        self._logged = -inf
        self._unlogged = 0

    @property
    def lost(self) -> int:
        """How many events were dropped so far because the queue was full."""
        return self._decoder.lost

    @property
    def gaps(self) -> deque[Gap]:
        """The latest 1,000 gaps, oldest first."""
        return self._decoder.gaps

    @property
    def malformed(self) -> int:
        """How many frames were skipped because they break the wire format."""
        return self._decoder.malformed

    @property
    def mismatched(self) -> int:
        """How many events were skipped because their data does not fit the type asked for."""
        return self._decoder.mismatched

    @property
    def mismatches(self) -> deque[Mismatch]:
        """The latest 100 events that were skipped because of their data, oldest first."""
        return self._decoder.mismatches

    @property
    def superseded(self) -> int:
        """With `latest`, how many events a newer one of the same (system, kind, path) has replaced."""
        return self._source.superseded

    def _report(self) -> None:
        """Report what went wrong since the last call. Not under the lock: a callback may use the channel."""
        decoder = self._decoder
        if (count := decoder.malformed - self._reported_malformed) > 0:
            self._reported_malformed += count
            self._warn(f"skipped {count} malformed frames, the latest: {decoder.malformed_reason}")
        while decoder.pending_reports:
            try:
                item = decoder.pending_reports.popleft()
            except IndexError:  # another thread has taken it
                return
            if isinstance(item, Gap):
                numbers = f"{item.first} to {item.last} of {item.origin}"
                self._warn(f"lost {item.events} events: {item.system} {item.kind}, {numbers}")
                self._call("on_gap", self._on_gap, item)
            else:
                evt, reason = item.event, item.reason[:_REASON_CHARS]
                self._warn(f"skipped an event, {evt.system} {evt.kind} {evt.path}, of another type: {reason}")
                self._call("on_error", self._on_error, item)

    def _call(self, name: str, callback: Callable[..., object] | None, item: Gap | Mismatch) -> None:
        if callback is None:
            return
        try:
            callback(item)
        except Exception as error:  # must not cost the event that is about to be returned
            report("%s of channel %s %s raised an error", name, self.system, self.kind or "*", error=error)

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._logged < _LOG_INTERVAL:
            self._unlogged += 1
            return
        more = f"; {self._unlogged} warnings since the one before were not logged" if self._unlogged else ""
        self._logged, self._unlogged = now, 0
        report("channel %s %s: %s%s", self.system, self.kind or "*", message, more)

    def __del__(self) -> None:
        # Nobody can receive from this channel any more. Without this, the process would still take its
        # events.
        if not self._source.closing:
            self._discard(self._source.queue)


ChannelT = TypeVar("ChannelT", bound=ChannelBase)
E = TypeVar("E")
F = TypeVar("F")


class SubscriptionBase(Uncopyable, Generic[ChannelT]):
    """What the subscriptions of `zbus` and of `zbus.aio` share."""

    _instead = ChannelBase._instead

    def __init__(self, channel: ChannelT) -> None:
        """Called by `Bus.subscribe`."""
        self._channel = channel

    def channel(self) -> ChannelT:
        """Return the channel. It is always the same object, also after `close`."""
        return self._channel

    @property
    def lost(self) -> int:
        """How many events were dropped so far because the queue was full."""
        return self._channel.lost


Selected = tuple[ChannelT, Event[D], Literal[True]] | tuple[ChannelT, Any, Literal[False]]
"""What `select` returns: the channel, and what its `receive` would return."""


def first_ready(channels: Iterable[ChannelT]) -> Selected[ChannelT, Any] | None:
    """Return the first channel that has an event or has ended, as `select` does. Hold all their locks."""
    for channel in channels:
        try:
            evt = channel._source.take()
        except Ended:
            return channel, None, False
        if evt is not None:
            return channel, evt, True
    return None


def no_event_within(timeout: float) -> Timeout:
    """Return the error of a `receive` or `select` whose timeout is over."""
    return Timeout(f"no event within {timeout:g} s", timeout=timeout)


def check_channels(channels: tuple[object, ...], channel_class: type) -> None:
    """Raise unless `channels` are one or more objects of `channel_class`."""
    if not channels:
        raise Invalid("select needs at least one channel")
    for channel in channels:
        if not isinstance(channel, channel_class):
            raise TypeError(f"select takes channels, as sub.channel() returns, not {type(channel).__name__}")
