"""From a bus to chunks: what `zbus record` does all the time, so it is written for speed.

Tap ── items ── Recorder ── Chunk ── Background ── Sink ── McapFile
"""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from ..event import Event, Gap
from ..protocol.loss import Stream
from ..protocol.undecoded import Item, Undecoded
from .background import Background
from .chunk import MESSAGE_HEAD, Chunk, message_head
from .file import Topic
from .schema import (
    EVENT,
    LOST,
    LOST_TOPIC,
    OTHER_TOPICS,
    body_template,
    bytes_body,
    gap_body,
    topic_name,
)
from .tap import Tap

__all__ = ["Recorder"]

_CHUNK_BYTES = 4 * 1024 * 1024
# So that even the oldest event of a chunk is in the file within a second.
_CHUNK_SECONDS = 0.7
_IDLE_SECONDS = 0.5
_LOST_CHANNEL, _OTHER_CHANNEL, _LAST_CHANNEL = 1, 2, 65_535
_STREAMS_KEPT = 100_000
_MOST_NS = 2**63


class _Known:
    """What is the same for all events of a stream."""

    __slots__ = ("channel", "template")

    def __init__(self, channel: int, template: bytes) -> None:
        self.channel = channel
        self.template = template


class Recorder:
    """Records what a tap reads. One thread uses it.

    Attributes:
        topics: the channels so far, by number.
    """

    def __init__(self) -> None:
        self.topics = {
            _LOST_CHANNEL: Topic(_LOST_CHANNEL, LOST_TOPIC, LOST, {}),
            _OTHER_CHANNEL: Topic(_OTHER_CHANNEL, OTHER_TOPICS, EVENT, {}),
        }
        self._channels: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[str, str, str], _Known] = {}
        self._chunk = Chunk()
        self._due = 0.0
        self._malformed = 0

    @property
    def topic_count(self) -> int:
        """How many topics of the bus have events so far."""
        return len(self._channels)

    def run(self, tap: Tap, background: Background, look: Callable[[], object]) -> None:
        """Record until the tap is closed and drained; call `look` at least every second.

        Raises:
            OSError: what was recorded could not be written.
        """
        while (items := tap.items(self._seconds())) is not None:
            if items:
                self.record(items, time.time_ns())
            if self._chunk.parts and (self._chunk.size >= _CHUNK_BYTES or time.monotonic() >= self._due):
                self.flush(tap, background)
            look()
        self.flush(tap, background)

    def flush(self, tap: Tap, background: Background) -> None:
        """Have the chunk written, and begin the next."""
        chunk, self._chunk = self._chunk, Chunk()
        if chunk.parts:
            malformed = tap.malformed
            chunk.malformed += malformed - self._malformed
            self._malformed = malformed
            background.write(chunk)

    def _seconds(self) -> float:
        """Return how long to wait for the next event."""
        return max(0.0, self._due - time.monotonic()) if self._chunk.parts else _IDLE_SECONDS

    def record(self, items: list[Item], log_time: int) -> None:
        """Add what was read at `log_time`, in nanoseconds since the epoch, to the chunk.

        All in one function, because each call for an event would cost 100 ns. JSON data is checked, and goes
        into the message as it came.
        """
        chunk = self._chunk
        if not chunk.parts:
            self._due = time.monotonic() + _CHUNK_SECONDS
        dumps, loads, add = orjson.dumps, orjson.loads, chunk.parts.append
        last: Stream | None = None
        stamp, sent, size = b"", log_time, 0
        for item in items:
            if type(item) is not tuple:
                self._add_decoded(item, log_time)  # type: ignore[arg-type]  # a gap is a tuple, too
                last = None
                continue
            event: Undecoded = item  # type: ignore[assignment]
            stream, seq, path, more, data = event
            if stream is not last:
                known = self._known_of(stream.system, stream.kind, stream.origin)
                chunk.runs.append((known.channel, log_time, len(chunk.parts) // 2))
                last, channel, template = stream, known.channel, known.template
            if more != stamp:  # the time in it changes every 100 µs, whatever is sent meanwhile
                stamp, sent = more, _sent(more, log_time)
            try:
                if data > b"\1":
                    loads(data)
                    body = template % (dumps(path.decode()), data, seq)
                else:
                    body = _odd_body(template, dumps(path.decode()), data, seq)
            except ValueError:  # neither JSON nor UTF-8
                chunk.malformed += 1
                continue
            add(message_head(channel, len(body), seq, log_time, sent))
            add(body)
            size += len(body)
        chunk.size += size + len(items) * MESSAGE_HEAD.size

    def _add_decoded(self, item: Event | Gap, log_time: int) -> None:
        """Add an event of a batch, or one that was the first of its stream, or a gap."""
        chunk = self._chunk
        if isinstance(item, Gap):
            chunk.gaps.append(item)
            channel, body, seq = _LOST_CHANNEL, gap_body(item), item.first
            sent = log_time
        else:
            known = self._known_of(item.system, item.kind, item.origin)
            channel, seq = known.channel, item.seq
            path = orjson.dumps(item.path)
            if isinstance(item.data, bytes):
                body = bytes_body(known.template, path, item.data, seq)
            else:
                body = known.template % (path, orjson.dumps(item.data), seq)
            sent = log_time if item.time is None else _plausible(round(item.time * 1e6) * 1000, log_time)
        if not chunk.runs or chunk.runs[-1][:2] != (channel, log_time):
            chunk.runs.append((channel, log_time, len(chunk.parts) // 2))
        chunk.parts += message_head(channel, len(body), seq, log_time, sent), body
        chunk.size += len(body)

    def _known_of(self, system: str, kind: str, origin: str) -> _Known:
        known = self._known.get((system, kind, origin))
        if known is None:
            if len(self._known) >= _STREAMS_KEPT:
                self._known.clear()
            known = _Known(self._channel_of(system, kind), body_template(system, kind, origin))
            self._known[system, kind, origin] = known
        return known

    def _channel_of(self, system: str, kind: str) -> int:
        channel = self._channels.get((system, kind))
        if channel is None:
            channel = _OTHER_CHANNEL + len(self._channels) + 1
            if channel > _LAST_CHANNEL:
                return _OTHER_CHANNEL
            self.topics[channel] = Topic(
                channel, topic_name(system, kind), EVENT, {"system": system, "kind": kind}
            )
            self._channels[system, kind] = channel
        return channel


def _sent(more: bytes, log_time: int) -> int:
    """Return when an event was sent, in nanoseconds, by the end of its stamp; else `log_time`."""
    fields = more.split(b".", 4)
    digits = fields[3] if len(fields) > 3 else b""
    return _plausible(int(digits) * 1000, log_time) if digits.isdigit() and len(digits) <= 19 else log_time


def _plausible(sent: int, log_time: int) -> int:
    return sent if 0 <= sent < _MOST_NS else log_time


def _odd_body(template: bytes, path: bytes, data: bytes, seq: int) -> bytes:
    """Return the message of an event whose data field is empty or bytes. No JSON begins like the rest."""
    if not data:
        return template % (path, b"null", seq)
    if data[0]:
        raise ValueError("neither JSON nor bytes")
    return bytes_body(template, path, memoryview(data)[1:], seq)
