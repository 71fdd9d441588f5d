"""The side of a link that is on this machine: a bus that can be tapped, and that sends on what others sent.

The tap takes frames as they are. The data of an event stays the bytes that came, unless it is one of a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, NamedTuple, cast

import orjson
import zmq

from ..aio.bus import Bus
from ..aio.waker import Waker, until
from ..event import Event, Gap
from ..options import SubscriptionOptions
from ..protocol.loss import Stream
from ..protocol.relayed import Relayed, via_in
from ..protocol.wire import Malformed, decode_data
from ..receiving.channel_base import ChannelBase
from ..receiving.queue import Ended
from ..runtime.threads import run_in_thread
from ..sending.relay import Relay

__all__ = ["LinkBus", "LinkTap", "Taken"]

_MOST_FRAMES = 256
_CAPACITY = 4096
_CAPACITY_BYTES = 32 * 1024 * 1024


class Taken(NamedTuple):
    """What was taken from the bus at once.

    Attributes:
        items: events, and what is known of those that are missing, in order.
        malformed: how many frames were left out because their data is no JSON.
    """

    items: list[Relayed]
    malformed: int


class LinkTap(ChannelBase[Any]):
    """A `block` channel of frames, for one task of an event loop."""

    async def take(self) -> Taken | None:
        """Wait until something has arrived, and return it; `None` once the tap is closed and drained.

        Cancelling this loses nothing.
        """
        source = self._source
        while True:
            try:
                with source.lock:
                    if frames := self._frames():
                        # Under the lock: a mark may come by another way, and is only true after these.
                        return self._read(frames)
                    source.must_poll()  # widens the queue again once it is empty
                    waiter, waker = self._waiter()
            except Ended:
                return None
            await until(waiter, inf, (waker,))

    def _frames(self) -> list[bytes]:
        queue = self._source.queue
        frames: list[bytes] = []
        try:
            while len(frames) < _MOST_FRAMES:
                # Looked up each time: it is replaced while large frames are counted, and at the end.
                frames.append(queue.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass
        except Ended:
            if not frames:
                raise
        return frames

    def _waiter(self) -> tuple[asyncio.Future[None], Waker]:
        source = self._source
        if source.waker is None:
            source.waker = Waker(source.fileno())
        waker = cast("Waker", source.waker)
        waiter = waker.loop.create_future()
        waker.add(waiter)
        return waiter, waker

    def _read(self, frames: list[bytes]) -> Taken:
        items: list[Relayed] = []
        malformed = 0
        for frame in frames:
            try:
                items.extend(self._items(frame))
            except Malformed:
                malformed += 1
        return Taken(items, malformed)

    def _items(self, frame: bytes) -> Iterator[Relayed]:
        decoder = self._decoder
        fields = frame.split(b"\0", 4)
        if (known := decoder.skip(frame)) is not None:
            stream, stamp = known
            decode_data(fields[4])
            yield _event(stream, stream.next - 1, fields[2], stamp, fields[4])
            return
        single, batch = decoder.decode(frame), [*(decoder.batch or ())]
        decoder.batch = None
        gaps = self._gaps()
        if gaps:
            via, _ = _end(fields[3] if len(fields) > 3 else b"")
            yield from (_missing(gap, via) for gap in gaps)
        for evt in batch if single is None else [single]:
            if evt.origin:  # what has no number could be told neither from its copies nor from its loss
                yield _decoded(evt, fields)

    def _gaps(self) -> list[Gap]:
        reports = self._decoder.pending_reports
        gaps = [report for report in reports if isinstance(report, Gap)]
        reports.clear()
        return gaps

    def close(self) -> None:
        """Stop new events; those that have arrived can still be taken. Closing twice is fine."""
        self._source.close()


def _event(stream: Stream, seq: int, path: bytes, stamp: bytes, data: bytes) -> Relayed:
    via, time = _end(stamp)
    return Relayed(stream.origin, stream.system, stream.kind, seq, via, path, time, data)


def _decoded(evt: Event, fields: list[bytes]) -> Relayed:
    """Return an event whose frame was decoded: the first of its stream, one after a loss, one of a batch."""
    via, time = _end(fields[3])
    body = fields[4] if fields[2] else b"" if evt.data is None else orjson.dumps(evt.data)
    return Relayed(evt.origin, evt.system, evt.kind, evt.seq, via, evt.path.encode(), time, body)


def _missing(gap: Gap, via: str) -> Relayed:
    return Relayed(gap.origin, gap.system, gap.kind, gap.last + 1, via, first=gap.first)


def _end(stamp: bytes) -> tuple[str, bytes]:
    """Return the buses that a stamp names, and its time; both are empty if it tells none."""
    fields = stamp.split(b".", 6)
    if len(fields) < 6:
        return "", b""
    digits = fields[5]
    time = digits if digits.isdigit() and len(digits) <= 19 else b""
    return via_in(fields[6]) if len(fields) > 6 else "", time


class LinkBus(Bus):
    """A bus of an event loop that can be tapped, and that sends on what others sent."""

    @property
    def relay(self) -> Relay:
        """What has been sent on."""
        return self._node.publisher.relay

    def show(self, numbers: Callable[[], dict[str, object]]) -> None:
        """Publish numbers on the roster from now on."""
        self._node.show_link(numbers)

    async def written(self, seconds: float) -> None:
        """Wait until what was sent on outlives this process; raise `Timeout` after `seconds`."""
        for pause in self._node.writing(seconds):
            await asyncio.sleep(pause)

    async def id(self) -> str:
        """Return the id of the bus directory."""
        found: str = await run_in_thread("zbus-join", self._node.bus_id)
        return found

    async def tap(self, system: str) -> LinkTap:
        """Subscribe with `block` as `Bus.subscribe` does, with the same errors."""
        options = SubscriptionOptions("block", _CAPACITY, _CAPACITY_BYTES)
        request = self._node.check_subscription(system, None, options)
        tap: LinkTap = await run_in_thread("zbus-join", self._node.join, request, LinkTap, self)
        return tap
