"""One MCAP file, from its header to its summary. What was written stays readable, whatever happens."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from mcap import records as mcap
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.well_known import MessageEncoding, SchemaEncoding

from .chunk import PackedChunk
from .room import release, reserve
from .schema import END, LOSSES, RECORDING, UNWRITTEN, Schema
from .unwritten import Unwritten

__all__ = ["Description", "McapFile", "Topic"]

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER = struct.Struct("<BQQQ")
# Set aside for the end of the file, so that it can tell what is missing when the disk is full. Without an
# index, and with no more of the streams that are missing, the end is smaller.
_END_BYTES = 256 * 1024
_MOST_STREAMS = 500


class Topic(NamedTuple):
    """A channel of MCAP.

    Attributes:
        id: its number in all files of a recording.
        name: its topic.
        schema: of its messages.
        metadata: `system` and `kind`, if it is that of one topic of the bus.
    """

    id: int
    name: str
    schema: Schema
    metadata: dict[str, str]


class Description(NamedTuple):
    """What a file tells of its recording.

    Attributes:
        library: who wrote it.
        metadata: what is recorded: bus, patterns and so on.
        topics: all channels so far, by number; shared with who adds to it.
    """

    library: str
    metadata: dict[str, str]
    topics: dict[int, Topic]


class McapFile:
    """A file to which chunks are written. One thread uses it.

    Attributes:
        path: its path.
        size: how many bytes were written.
        start: the log time of the first message; 0 if there is none yet.
        events, lost: how many.
    """

    def __init__(self, path: str, description: Description, roster: bytes) -> None:
        """Make the file and write what precedes the events.

        Raises:
            OSError: it exists, or cannot be written.
        """
        self.path = path
        self.size = self.start = self.events = self.lost = 0
        self._description = description
        self._written: set[int] = set()
        self._schemas: set[int] = set()
        self._chunks: list[mcap.ChunkIndex] = []
        self._attachments: list[mcap.AttachmentIndex] = []
        self._metadata: list[mcap.MetadataIndex] = []
        self._counts: Counter[int] = Counter()
        self._losses: Counter[tuple[str, str, str]] = Counter()
        self._gaps: Counter[tuple[str, str, str]] = Counter()
        self._malformed = self._end = self._crc = self._reserved = 0
        self._fd, self._made = _create(path)
        try:
            self._make_room(0)
            self._write(_MAGIC, _record(mcap.Header(profile="", library=description.library)))
            self._add_metadata(RECORDING, description.metadata)
            self._attach("roster-start.json", roster)
        except BaseException:
            self.remove()
            raise

    @property
    def removed(self) -> bool:
        """Whether somebody has removed the file, so that nothing of it will be left."""
        return self._fd >= 0 and self._made and not os.fstat(self._fd).st_nlink

    def _make_room(self, size: int) -> None:
        """Set room aside for `size` bytes and the end of the file."""
        end = self.size + size + _END_BYTES
        if end > self._reserved:
            reserve(self._fd, self._reserved, end)
            self._reserved = end

    def write(self, chunk: PackedChunk) -> None:
        """Write a chunk, and before it the channels that it is the first to use.

        Raises:
            OSError: the disk is full, for example, or the file was removed. It is as it was before.
        """
        self._refuse_removed()
        fresh = [
            self._description.topics[channel] for channel in chunk.counts if channel not in self._written
        ]
        channels = b"".join(map(self._channel_record, fresh))
        begin = self.size + len(channels)
        indexes = begin + chunk.size
        self._make_room(len(channels) + chunk.size + sum(map(len, chunk.indexes.values())))
        self._write(channels, chunk.head, chunk.data, b"".join(chunk.indexes.values()))
        self._written.update(topic.id for topic in fresh)
        self._index(chunk, begin, indexes)
        self._count(chunk)

    def _refuse_removed(self) -> None:
        if self.removed:
            raise OSError(errno.ENOENT, "it was removed while it was recorded", self.path)

    def _channel_record(self, topic: Topic) -> bytes:
        schema = b"" if topic.schema.id in self._schemas else _record(_schema(topic.schema))
        self._schemas.add(topic.schema.id)
        return schema + _record(_channel(topic))

    def _index(self, chunk: PackedChunk, begin: int, indexes: int) -> None:
        offsets, at = {}, indexes
        for channel, record in chunk.indexes.items():
            offsets[channel] = at
            at += len(record)
        self._chunks.append(
            mcap.ChunkIndex(
                chunk_length=chunk.size,
                chunk_start_offset=begin,
                compression=chunk.compression,
                compressed_size=len(chunk.data),
                message_end_time=chunk.end,
                message_index_length=at - indexes,
                message_index_offsets=offsets,
                message_start_time=chunk.start,
                uncompressed_size=chunk.uncompressed_size,
            )
        )

    def _count(self, chunk: PackedChunk) -> None:
        self.start = min(self.start or chunk.start, chunk.start)
        self._end = max(self._end, chunk.end)
        self._counts.update(chunk.counts)
        self.events += sum(chunk.counts.values()) - len(chunk.gaps)
        self._malformed += chunk.malformed
        for gap in chunk.gaps:
            self._losses[gap[:3]] += gap.events
            self._gaps[gap[:3]] += 1
            self.lost += gap.events

    def finish(self, roster: bytes, unwritten: Unwritten) -> None:
        """Write what follows the events, and close the file; `unwritten` is what is not among them.

        Raises:
            OSError: the disk is full, for example, or the file was removed. The events can be read without
                what is missing.
        """
        begin = self.size, self._crc
        try:
            self._refuse_removed()
            try:
                self._write_end(roster, unwritten)
            except OSError:
                self._cut(*begin)
                self._write_short_end(unwritten)
                raise
        finally:
            self.close()

    def _write_end(self, roster: bytes, unwritten: Unwritten) -> None:
        self._attach("roster-end.json", roster)
        for (origin, system, kind), events in self._losses.items():
            counts = {"events": str(events), "gaps": str(self._gaps[origin, system, kind])}
            self._add_metadata(LOSSES, {"origin": origin, "system": system, "kind": kind, **counts})
        self._write_sums(unwritten, len(unwritten.streams))
        data_end = _record(mcap.DataEnd(data_section_crc=self._crc))
        self._write(data_end, self._summary(self.size + len(data_end)))

    def _write_short_end(self, unwritten: Unwritten) -> None:
        """Write an end that fits into what is set aside: it has no index."""
        self._write_sums(unwritten, _MOST_STREAMS)
        footer = _FOOTER.pack(Opcode.FOOTER, _FOOTER.size - 9 + 4, 0, 0)
        crc = struct.pack("<I", zlib.crc32(footer))
        self._write(_record(mcap.DataEnd(data_section_crc=self._crc)), footer, crc, _MAGIC)

    def _write_sums(self, unwritten: Unwritten, streams: int) -> None:
        """Write the last metadata, which tell of so many streams."""
        for (origin, system, kind), stream in islice(unwritten.streams.items(), streams):
            counts = {name: str(count) for name, count in stream._asdict().items()}
            self._add_metadata(UNWRITTEN, {"origin": origin, "system": system, "kind": kind, **counts})
        sums = {
            "events": self.events,
            "lost": self.lost,
            "malformed": self._malformed,
            "unwritten": unwritten.events,
        }
        self._add_metadata(END, {name: str(count) for name, count in sums.items()})

    def _summary(self, start: int) -> bytes:
        """Return everything that follows the data section, which ends at `start`."""
        builder = RecordBuilder()
        offsets = []
        for opcode, group in self._groups():
            begin = builder.count
            for record in group:
                record.write(builder)
            if group:
                offsets.append(mcap.SummaryOffset(opcode, start + begin, builder.count - begin))
        offset_start = start + builder.count
        for offset in offsets:
            offset.write(builder)
        summary: bytes = builder.end()  # type: ignore[no-untyped-call]
        footer = _FOOTER.pack(Opcode.FOOTER, _FOOTER.size - 9 + 4, start, offset_start)
        crc = zlib.crc32(footer, zlib.crc32(summary))
        return b"".join((summary, footer, struct.pack("<I", crc), _MAGIC))

    def _groups(self) -> list[tuple[Opcode, Sequence[mcap.McapRecord]]]:
        topics = [self._description.topics[channel] for channel in sorted(self._written)]
        schemas = {topic.schema.id: topic.schema for topic in topics}
        statistics = mcap.Statistics(
            attachment_count=len(self._attachments),
            channel_count=len(topics),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunks),
            message_count=self._counts.total(),
            message_end_time=self._end,
            message_start_time=self.start,
            metadata_count=len(self._metadata),
            schema_count=len(schemas),
        )
        return [
            (Opcode.SCHEMA, [*map(_schema, schemas.values())]),
            (Opcode.CHANNEL, [*map(_channel, topics)]),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, self._chunks),
            (Opcode.ATTACHMENT_INDEX, self._attachments),
            (Opcode.METADATA_INDEX, self._metadata),
        ]

    def _add_metadata(self, name: str, metadata: dict[str, str]) -> None:
        record = _record(mcap.Metadata(name=name, metadata=metadata))
        self._metadata.append(mcap.MetadataIndex(offset=self.size, length=len(record), name=name))
        self._write(record)

    def _attach(self, name: str, roster: bytes) -> None:
        now = time.time_ns()
        kind = "application/json"
        attachment = mcap.Attachment(create_time=now, log_time=now, name=name, media_type=kind, data=roster)
        record = _record(attachment)
        self._attachments.append(
            mcap.AttachmentIndex(
                offset=self.size,
                length=len(record),
                log_time=now,
                create_time=now,
                data_size=len(roster),
                name=name,
                media_type=kind,
            )
        )
        self._write(record)

    def _write(self, *parts: bytes) -> None:
        """Write all of it or nothing: a file that ends in half a record would have to be mended."""
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._fd, view) :]
        except OSError:
            self._cut(self.size, self._crc)
            raise
        for part in parts:
            self.size += len(part)
            self._crc = zlib.crc32(part, self._crc)

    def _cut(self, size: int, crc: int) -> None:
        """Go back to where the file had so many bytes, with this sum. What was set aside stays so."""
        self.size, self._crc = size, crc
        with suppress(OSError):  # not a regular file
            os.lseek(self._fd, size, os.SEEK_SET)
            os.ftruncate(self._fd, size)
            reserve(self._fd, size, self._reserved)

    def remove(self) -> None:
        """Close the file, and remove it: nobody needs it."""
        self.close()
        if self._made:
            with suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Close the file as it is."""
        if self._fd >= 0:
            with suppress(OSError):  # not a regular file
                release(self._fd, self.size)
            os.close(self._fd)
            self._fd = -1


def _create(path: str) -> tuple[int, bool]:
    """Open a new file, or one that is no regular file, such as a pipe: no recording is ever replaced.

    Returns:
        Its descriptor, and whether it was made.

    Raises:
        OSError: it exists, cannot be made, or is a pipe that nobody reads.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISREG(mode):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    return (_open_pipe(path, flags) if stat.S_ISFIFO(mode) else os.open(path, flags)), False


def _open_pipe(path: str, flags: int) -> int:
    """Open a named pipe. Without `O_NONBLOCK` that would wait for a reader, deaf to the first Ctrl-C."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "nobody reads this pipe: start what reads it first", path) from error
        raise
    os.set_blocking(fd, True)
    return fd


def _record(record: mcap.McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]


def _schema(schema: Schema) -> mcap.Schema:
    return mcap.Schema(id=schema.id, name=schema.name, encoding=SchemaEncoding.JSONSchema, data=schema.text())


def _channel(topic: Topic) -> mcap.Channel:
    return mcap.Channel(
        id=topic.id,
        topic=topic.name,
        message_encoding=MessageEncoding.JSON,
        metadata=topic.metadata,
        schema_id=topic.schema.id,
    )
