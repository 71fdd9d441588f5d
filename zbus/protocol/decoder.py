"""From frames to events: filter, count losses, decode; without a socket, a lock or a clock.

    frame ──> short cut: one event of a known stream, with the number due ──> Event
                 │ any other shape
                 └──> split and check the fields, find or add the stream, count losses ──> batch of events

ZeroMQ has compared prefixes only, so the patterns decide here, once for each stream. The short cut is for
speed. A test holds it to the same answers as `wire.decode`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator

import orjson

from ..event import Event, Gap, Mismatch
from .loss import MAX_GAP, Stream, Streams
from .marks import Mark
from .patterns import Matcher
from .relayed import is_relayed
from .typed import Fit
from .undecoded import Item, reader
from .wire import (
    CONTROL,
    EMPTY_BATCH,
    Malformed,
    Stamp,
    decode_batch,
    decode_data,
    decode_fields,
    decode_topic,
)

__all__ = ["Decoder"]

_GAPS_KEPT = 1000
_TRIES = 3
_MISMATCHES_KEPT = 100  # each keeps its event alive, which may be large


class Decoder:
    """Decodes the frames of one channel in the order in which they arrived. Not thread-safe.

    Attributes:
        decode: takes a frame and returns the event in it. It returns `None` if there is not exactly one event
            to return. If the frame was a batch, its events are then in `batch`. If not, it had none for this
            channel: it did not match the patterns or the type, was malformed, or was one of the bus's own.
        wants: takes a system and a kind; returns whether its events are for this channel.
        batch: the events of the latest batch that are left, or `None`. Call `rest` for them.
        pending_reports: gaps and mismatches that the channel has not reported yet, at most 1,000.
        lost, malformed, mismatched: how many events or frames so far.
        malformed_reason: what was wrong with the latest malformed frame.
        gaps, mismatches: the latest of each.
    """

    def __init__(
        self,
        system: Matcher,
        kind: Matcher | None,
        fit: Fit | None = None,
        count: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        """Select by `system` and `kind`, convert data with `fit`, and call `count` with what goes wrong."""
        self.lost = 0
        self.malformed = 0
        self.mismatched = 0
        self.malformed_reason = ""
        self.gaps: deque[Gap] = deque(maxlen=_GAPS_KEPT)
        self.mismatches: deque[Mismatch] = deque(maxlen=_MISMATCHES_KEPT)
        self.pending_reports: deque[Gap | Mismatch] = deque(maxlen=_GAPS_KEPT)
        self.batch: Iterator[Event] | None = None  # threads may share a list's iterator
        self._fit = fit
        self._count = count
        self.wants = wants = _selector(system, kind)
        self._streams = Streams(wants)
        me = weakref.proxy(self)  # no cycle: a dropped channel must close at once
        decode = _short_cut(
            self._streams, lambda *batch: me._decode_batch(*batch), lambda fields: me._decode_any(fields)
        )
        self.decode = decode if fit is None else lambda frame: me._fitting(decode(frame))

    def joined(self, announced_at: int, now: int) -> None:
        """Note when this channel joined; see `Streams.joined`."""
        self._streams.joined(announced_at, now)

    def accounted(self, mark: Mark) -> bool:
        """Return whether a mark would tell this channel nothing new. Any thread may call this."""
        stamp = mark.stamp
        return self._streams.accounted(mark.stream, stamp.seq, stamp.born, stamp.settled, stamp.first)

    def awaits(self, key: tuple[bytes, bytes, bytes], seq: int) -> bool:
        """Return whether the mark of a stream with this number is the next frame of it; see `Streams`."""
        return self._streams.awaits(key, seq)

    def rest(self) -> Event | None:
        """Return the next event of the batch, or `None` if none is left.

        Do not decode another frame before that: if it is a batch too, it replaces this one.
        """
        evt = next(self.batch, None) if self.batch is not None else None
        if evt is None:
            self.batch = None
        return evt

    def tells(self, frame: bytes) -> bool:
        """Return whether a frame may have events for this channel: it is no mark, nor of another topic."""
        fields = frame.split(b"\0", 4)
        if frame[:1] == CONTROL or (fields[2:3] == [b""] and fields[4:] == [EMPTY_BATCH]):
            return False
        return self._concerns(fields)

    def skip(self, frame: bytes) -> tuple[Stream, bytes] | None:
        """Count a frame of one event that has the number due, without decoding its data.

        Returns:
            Its stream and its stamp; `None` if it is of another shape, or not for this channel: `decode` it.
        """
        fields = frame.split(b"\0", 4)
        if len(fields) < 5 or not fields[2]:
            return None
        origin, _, rest = fields[3].partition(b".")
        stream = self._streams.find((fields[0], fields[1], origin))
        if stream is None or stream.next < 1 or rest.partition(b".")[0] != b"%d" % stream.next:
            return None
        stream.next += 1
        return stream, fields[3]

    def undecoded(self) -> Callable[[list[bytes]], list[Item]]:
        """Return a function that reads frames and leaves their data as it is; see `undecoded.reader`.

        Use it instead of `decode`, or after it. Gaps are then among what it returns, not to be reported.
        """
        return reader(self._streams, self._decode_batch, self._decode_any, self.rest, self.pending_reports)

    def received(self) -> int | None:
        """Return how many events for this channel were decoded, fitting or not, and not lost since.

        Any thread may call this, see `Streams.passed`. Returns `None` if that changed too fast.
        """
        for _ in range(_TRIES):
            lost, passed = self.lost, self._streams.passed()
            if passed is not None and lost == self.lost:
                return passed - lost
        return None

    def lose(self, events: int) -> None:
        """Count events that are lost."""
        self.lost += events
        self._count("lost", events)

    def _decode_any(self, fields: list[bytes]) -> None:
        """Decode a frame of any shape; what it holds becomes the batch."""
        self._streams.changes |= 1  # also if an interrupt ended the call before too early
        try:
            self._decode_changing(fields)
        finally:
            self._streams.changes += 1

    def _decode_changing(self, fields: list[bytes]) -> None:
        if fields[0][:1] == CONTROL:  # a barrier, ours or another channel's
            return
        try:
            system, kind, stamp, events = decode_fields(fields)
        except Malformed as error:
            if self._concerns(fields):
                self._reject(str(error))
            return
        key = (system.encode(), kind.encode(), stamp.origin.encode())
        stream = self._streams.find(key) or self._streams.add(key)
        if not stream.wanted:
            return
        if events and stamp.seq + len(events) <= stream.next and is_relayed(fields[3]):
            return  # a link has sent it on again (W56)
        if stamp.origin and not self._account(stream, stamp, len(events)):
            self._reject(f"number {stamp.seq} is beyond what a stream can lose at once")
        else:
            if not events:
                stream.marked = stamp.seq
            if not stamp.origin:
                self._streams.uncounted += len(events)
            self._keep(events)

    def _concerns(self, fields: list[bytes]) -> bool:
        """Return whether a malformed frame counts: its topic is selected, or nobody can tell the topic."""
        try:
            return self.wants(*decode_topic(fields))
        except Malformed:
            return True

    def _account(self, stream: Stream, stamp: Stamp, events: int) -> bool:
        """Count what is missing before a frame (a mark has no events); return whether `seq` is plausible."""
        due = stream.next if stream.next >= 0 else self._streams.due(*stamp[1:5])
        if 0 <= due < stamp.seq - MAX_GAP:
            return False
        if stream.next < 0:
            stream.begin_at(due)
        elif not events:
            self._record_gap(self._streams.head(stream, stamp.settled, stamp.first))
        self._record_gap(stream.jump(stamp.seq))
        self._streams.advance(stream, stamp.seq, events)
        return True

    def _record_gap(self, gap: Gap | None) -> None:
        if gap is not None:
            self.gaps.append(gap)
            self.pending_reports.append(gap)
            self.lose(gap.events)

    def _reject(self, malformed_reason: str) -> None:
        self.malformed += 1
        self.malformed_reason = malformed_reason
        self._count("malformed", 1)

    def _decode_batch(self, stream: Stream, fields: list[bytes]) -> None:
        """Decode a batch with the number due of a known stream."""
        rest = fields[3].split(b".", 2)[2]
        events = decode_batch(stream.system, stream.kind, stream.origin, stream.next, rest, fields[4])
        if not events:  # a mark, which says more by its stamp
            self._decode_any(fields)
            return
        stream.expect(stream.next + len(events))
        self._keep(events)

    def _keep(self, events: list[Event]) -> None:
        self.batch = iter(events if self._fit is None else [evt for evt in events if self._fitting(evt)])

    def _fitting(self, evt: Event | None) -> Event | None:
        """Convert the event's data to the type asked for and return the event, or note the mismatch."""
        if evt is None or self._fit is None:
            return evt
        try:
            evt.data = self._fit(evt.data)
        except Exception as error:  # a type's own checks may raise anything
            mismatch = Mismatch(evt, str(error))
            self.mismatched += 1
            self.mismatches.append(mismatch)
            self.pending_reports.append(mismatch)
            self._count("mismatched", 1)
            return None
        return evt


def _selector(system: Matcher, kind: Matcher | None) -> Callable[[str, str], bool]:
    return lambda s, k: system.matches(s) and (kind is None or kind.matches(k))


def _short_cut(
    streams: Streams,
    batch: Callable[[Stream, list[bytes]], Event | None],
    otherwise: Callable[[list[bytes]], Event | None],
) -> Callable[[bytes], Event | None]:
    """Return the decoder for the common case: JSON data of a known stream, with the number due.

    Every other shape goes to `batch` or `otherwise`. This is a closure because its variables cost 80 ns an
    event less than as many attributes. All figures here were measured with CPython 3.11.
    """
    find, loads, event = streams.find, orjson.loads, Event
    new = object.__new__
    stream = Stream((b"", b"", b""), False)

    def decode(frame: bytes) -> Event | None:
        nonlocal stream
        fields = frame.split(b"\0", 4)
        try:
            system, kind, path, stamp, data = fields
            origin, digits, rest = stamp.split(b".", 2)
            # Three comparisons cost 75 ns, the lookup 190, and most events are of the same stream as the
            # last.
            if origin != stream.origin_key or kind != stream.kind_key or system != stream.system_key:
                known = find((system, kind, origin))
                if known is None:
                    return otherwise(fields)
                if not known.wanted:
                    return None
                stream = known
            seq = int(digits)
            # `int` accepts more than the format does, such as `+5` and `1_0`, but all of that is longer.
            if seq != stream.next or len(digits) > stream.width:
                return otherwise(fields)
            if not path:
                return batch(stream, fields)
            # Filling the slots by hand instead of `Event(...)` saves 100 ns.
            evt = new(event)
            # One comparison tells JSON from no data (empty) and bytes (which begin with NUL).
            evt.data = loads(data) if data > b"\1" else decode_data(data)
            evt.path = path.decode()
            evt.system = stream.system
            evt.kind = stream.kind
            evt.origin = stream.origin
            evt.seq = seq
            evt.raw_time = rest
            stream.next = seq + 1
            return evt
        except ValueError:  # not five fields, or one that does not parse
            return otherwise(fields)

    return decode
