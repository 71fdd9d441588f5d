"""A subscription that hands out what frames say, but not their data: that is not even decoded.

with TapBus("shop") as bus, bus.tap("orders.**", None) as tap:
    while (arrived := tap.take(1.0)) is not None:
        for items, size in arrived.frames:
            ...
"""

from __future__ import annotations

import time
from typing import NamedTuple

import zmq
from zmq.backend import zmq_poll

from ..bus import Bus
from ..event import Gap
from ..options import SubscriptionOptions
from ..protocol.wire import sent_in
from ..receiving.frames import FrameChannel
from ..runtime.timeouts import milliseconds

__all__ = ["Arrived", "Head", "Tap", "TapBus"]

# What is lost is known and told, but it is better not to lose it. Small frames of so many take 100 MB.
_CAPACITY = 500_000
_CAPACITY_BYTES = 256 * 1024 * 1024
# A frame waits for those that were taken with it, so that its latency is exact to some 100 µs.
_MOST_FRAMES = 128


class Head(NamedTuple):
    """What a frame says beside its data.

    Attributes:
        system, kind: its topic.
        events: how many events it has.
        bytes: its size.
        sent: when it was sent, in seconds since the epoch; `None` if untold.
    """

    system: str
    kind: str
    events: int
    bytes: int
    sent: float | None


class Arrived(NamedTuple):
    """What was taken at once.

    Attributes:
        time: when, in seconds since the epoch.
        heads: of the frames.
        gaps: what was lost, as the numbers of events prove.
    """

    time: float
    heads: list[Head]
    gaps: list[Gap]


class Tap(FrameChannel):
    """A channel that takes frames apart.

    It reports no gaps and logs nothing: gaps are among what it returns.
    """

    def take(self, seconds: float) -> Arrived | None:
        """Return what has arrived; wait for it `seconds` at most.

        Returns:
            What has arrived, perhaps nothing; `None` once the channel is closed and drained.
        """
        source = self._source
        with source.lock:
            if source.must_poll() and not source.queue.waits():
                zmq_poll([(source.queue.handle, zmq.POLLIN)], milliseconds(seconds))
            frames, ended = self._frames(_MOST_FRAMES)
            if ended and not frames:
                return None
            now = time.time()
            heads = [head for frame in frames if (head := self._head(frame)) is not None]
            reports = self._decoder.pending_reports
            gaps = [report for report in reports if isinstance(report, Gap)]
            reports.clear()
        return Arrived(now, heads, gaps)

    def _head(self, frame: bytes) -> Head | None:
        """Return what a frame says, or `None` if it has no event for this channel."""
        decoder = self._decoder
        if (skipped := decoder.skip(frame)) is not None:
            stream, stamp = skipped
            return Head(stream.system, stream.kind, 1, len(frame), sent_in(stamp))
        # A new stream, or a loss, or a batch, whose events only its data can tell.
        evt = decoder.decode(frame)
        events = 1
        if evt is None:
            batch = [*(decoder.batch or ())]
            decoder.batch = None
            if not batch:
                return None
            evt, events = batch[0], len(batch)
        return Head(evt.system, evt.kind, events, len(frame), evt.time)


class TapBus(Bus):
    """A bus that can be tapped."""

    def tap(self, system: str, kind: str | None, *, capacity: int = _CAPACITY) -> Tap:
        """Subscribe with `drop` as `Bus.subscribe` does, with the same errors."""
        options = SubscriptionOptions("drop", capacity, _CAPACITY_BYTES)
        return self._node.join(self._node.check_subscription(system, kind, options), Tap, self)
