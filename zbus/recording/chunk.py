"""Chunks: messages of MCAP that are compressed and written together.

The package `mcap` takes 8 µs to write a message, as long as it takes to send four (measured). So the messages
of a chunk and its index are put together here, and `mcap` is used for everything else.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

import lz4.frame
import zstandard
from mcap.opcode import Opcode

from ..event import Gap

__all__ = ["COMPRESSIONS", "MESSAGE_HEAD", "Chunk", "PackedChunk", "bodies", "message_head", "pack"]

MESSAGE_HEAD = struct.Struct("<BQHIQQ")
"""The head of a message: opcode, length of the rest, channel, sequence, log time, publish time."""

_FIXED = MESSAGE_HEAD.size - 9
_CHUNK_HEAD = struct.Struct("<BQQQQI")
_INDEX_HEAD = struct.Struct("<BQHI")
# The lowest level is a third faster than the usual one, and compresses events as well (measured). It also
# takes base64 back to the size of the bytes.
_ZSTD_LEVEL = 1

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data),
    "lz4": lambda data: bytes(lz4.frame.compress(data)),
    "none": lambda data: data,
}
"""How chunks can be compressed. Each function leaves the interpreter to others meanwhile."""

_DECOMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.ZstdDecompressor().decompress(data),
    "lz4": lambda data: bytes(lz4.frame.decompress(data)),
    "": lambda data: data,
}


def message_head(channel: int, size: int, seq: int, log_time: int, publish_time: int) -> bytes:
    """Return what precedes the `size` bytes of a message. Times are nanoseconds since the epoch."""
    return MESSAGE_HEAD.pack(Opcode.MESSAGE, _FIXED + size, channel, seq & 0xFFFFFFFF, log_time, publish_time)


class Chunk:
    """Messages that will be written together.

    Attributes:
        parts: head and body of each message, in turn.
        runs: `(channel, log_time, index of the first message)`, where either of the first two changes.
        size: of `parts`, in bytes.
        gaps: those among the messages.
        malformed: how many events were left out because their data is not JSON.
    """

    __slots__ = ("gaps", "malformed", "parts", "runs", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.runs: list[tuple[int, int, int]] = []
        self.size = 0
        self.gaps: list[Gap] = []
        self.malformed = 0


class PackedChunk(NamedTuple):
    """A chunk as it is written to a file.

    Attributes:
        head, data: the chunk record, without and with the records in it.
        indexes: the message index records that follow, by channel.
        counts: how many messages, by channel.
        start, end: the earliest and the latest log time.
        compression: the name of MCAP.
        uncompressed_size: of the records in it.
        gaps, malformed: see `Chunk`.
    """

    head: bytes
    data: bytes
    indexes: dict[int, bytes]
    counts: dict[int, int]
    start: int
    end: int
    compression: str
    uncompressed_size: int
    gaps: list[Gap]
    malformed: int

    @property
    def size(self) -> int:
        """How many bytes it takes in a file, without its index."""
        return len(self.head) + len(self.data)


def pack(chunk: Chunk, compression: str) -> PackedChunk:
    """Return a chunk, compressed by one of `COMPRESSIONS`, with its index."""
    records = b"".join(chunk.parts)
    index = _index(chunk)
    data = COMPRESSIONS[compression](records)
    name = "" if compression == "none" else compression
    times = [log_time for _, log_time, _ in chunk.runs]
    start, end = min(times), max(times)
    rest = struct.pack(f"<I{len(name)}sQ", len(name), name.encode(), len(data))
    length = _CHUNK_HEAD.size - 9 + len(rest) + len(data)
    head = _CHUNK_HEAD.pack(Opcode.CHUNK, length, start, end, len(records), zlib.crc32(records)) + rest
    return PackedChunk(
        head=head,
        data=data,
        indexes={channel: _index_record(channel, entries) for channel, entries in index.items()},
        counts={channel: len(entries) // 2 for channel, entries in index.items()},
        start=start,
        end=end,
        compression=name,
        uncompressed_size=len(records),
        gaps=chunk.gaps,
        malformed=chunk.malformed,
    )


def bodies(chunk: PackedChunk) -> Iterator[bytes]:
    """Yield the JSON of each message, in order."""
    data = _DECOMPRESSIONS[chunk.compression](chunk.data)
    begin = 0
    while begin < len(data):
        end = begin + 9 + MESSAGE_HEAD.unpack_from(data, begin)[1]
        yield data[begin + MESSAGE_HEAD.size : end]
        begin = end


def _index(chunk: Chunk) -> dict[int, array[int]]:
    """Return log time and offset of each message, in turn, by channel."""
    offsets = array("Q", accumulate(map(len, chunk.parts), initial=0))[:-1:2]
    found: dict[int, array[int]] = {}
    ends = [first for _, _, first in chunk.runs[1:]]
    for (channel, log_time, first), last in zip(chunk.runs, [*ends, len(offsets)], strict=True):
        if first < last:
            entries = array("Q", (log_time,)) * (2 * (last - first))
            entries[1::2] = offsets[first:last]
            found.setdefault(channel, array("Q")).extend(entries)
    return found


def _index_record(channel: int, entries: array[int]) -> bytes:
    if sys.byteorder == "big":
        entries.byteswap()
    size = len(entries) * entries.itemsize
    return (
        _INDEX_HEAD.pack(Opcode.MESSAGE_INDEX, _INDEX_HEAD.size - 9 + size, channel, size) + entries.tobytes()
    )
