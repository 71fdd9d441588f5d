"""What a channel of the second model knows and counts: the product's own decoder, one frame at a time."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from zbus.protocol.decoder import Decoder
from zbus.protocol.marks import decode_twin
from zbus.protocol.patterns import Matcher
from zbus.protocol.wire import TWIN

from .telling_world import EVENT, Channel, Frame, events

__all__ = ["accounted", "take"]

_SYSTEM, _KIND = "s", "k"
Counts = tuple[tuple[int, int, int], ...]


class Taken(NamedTuple):
    """What a frame changes: what the decoder knows, and the events received and told lost by it."""

    counts: Counts
    got: int
    told: int


def take(channel: Channel, frame: Frame) -> Taken:
    """Return what the channel makes of the next frame of its queue."""
    return _take(channel.announced, channel.joined, channel.counts, frame)


@cache
def _take(announced: int, joined: int, counts: Counts, frame: Frame) -> Taken:
    decoder = _decoder(announced, joined, counts)
    evt = decoder.decode(_encode(frame)) or decoder.rest()
    got = events(int(evt.origin, 16), evt.seq, evt.seq) if evt else 0
    told = 0
    for gap in decoder.gaps:
        told |= events(int(gap.origin, 16), gap.first, gap.last)
    origins = {origin for origin, _, _ in counts} | {frame.origin}
    return Taken(tuple(_count(decoder, origin) for origin in sorted(origins)), got, told)


@cache
def _accounted(announced: int, joined: int, counts: Counts, frame: Frame) -> bool:
    mark = decode_twin(TWIN + _encode(frame))
    assert mark is not None
    return _decoder(announced, joined, counts).accounted(mark)


def accounted(channel: Channel, frame: Frame) -> bool:
    """Return whether a mark would tell the channel nothing."""
    return _accounted(channel.announced, channel.joined, channel.counts, frame)


def _encode(frame: Frame) -> bytes:
    path, body = ("/", "1") if frame.what == EVENT else ("", "[]")
    stamp = f"{frame.origin:08x}.{frame.seq}.{frame.born}.{frame.settled}.{frame.first}"
    return "\0".join((_SYSTEM, _KIND, path, stamp, body)).encode()


def _decoder(announced: int, joined: int, counts: Counts) -> Decoder:
    """Return a decoder that knows just this."""
    decoder = Decoder(Matcher(_SYSTEM), None)
    decoder.joined(announced, joined)
    for origin, begin, due in counts:
        stream = decoder._streams.add(_key(origin))
        stream.begin_at(begin)
        stream.expect(due)
    return decoder


def _count(decoder: Decoder, origin: int) -> tuple[int, int, int]:
    stream = decoder._streams.find(_key(origin))
    assert stream is not None
    return origin, stream.begin, stream.next


def _key(origin: int) -> tuple[bytes, bytes, bytes]:
    return _SYSTEM.encode(), _KIND.encode(), f"{origin:08x}".encode()
