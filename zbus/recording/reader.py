"""Reading a recording from its beginning to where it can be read: whole, cut short, or damaged.

The package `mcap` reads the records. Messages are taken out of a chunk here, which is much faster.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from types import TracebackType

import lz4.frame  # noqa: F401  # `mcap` would do without it, and then not read what was compressed by it
import zstandard
from mcap import records as mcap
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.stream_reader import StreamReader, get_chunk_data_stream

from .chunk import MESSAGE_HEAD
from .schema import END, EVENT, LOST, RECORDING, UNWRITTEN

__all__ = ["Message", "Reading"]

Message = tuple[int, bytes, bool]
"""When it was sent, in nanoseconds since the epoch; its JSON; whether it tells of a gap, not of an event."""

# What `mcap` and the decompressors raise for bytes that are no recording.
_BROKEN = (
    McapError,
    zstandard.ZstdError,
    struct.error,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
)
# Two chunks that follow each other may have been read in the same instant. A clock that is set goes further.
_SET_BACK_NS = 1_000_000_000
_NO_INDEX = mcap.MessageIndex(0, [])
_RECORD_HEAD = struct.Struct("<BQ")


class _Records(StreamReader):
    """The records of a file, with nothing in the index of a chunk's messages: all of them are read anyway.

    Parsing it takes as long as reading the messages. Should `mcap` rename this method, it is parsed again.
    """

    def _read_record(self, opcode: int, length: int) -> mcap.McapRecord | None:
        if opcode == Opcode.MESSAGE_INDEX:
            return _NO_INDEX  # the caller skips its bytes, and counts them in the checksum
        return super()._read_record(opcode, length)


class Reading:
    """A recording that is read once, from its beginning.

    Attributes:
        size: of the file, in bytes.
        read: up to which byte it was read without finding anything wrong.
        damage: what was wrong there; empty if nothing was.
        finished: whether it has its end. A recorder that was killed writes none.
        recording, end: the metadata at the beginning and at the end; empty if there is none.
        unwritten: the metadata of the streams of which events could not be written.
        foreign: how many messages were passed over because they are not of zbus.
        set_back: whether the clock of the machine was set back just before the latest messages.
    """

    def __init__(self, path: str) -> None:
        """Open a file.

        Raises:
            OSError: it cannot be read.
        """
        self._file = open(path, "rb")  # noqa: SIM115  # closed by `close`
        self.size = os.fstat(self._file.fileno()).st_size
        self.read = 0
        self.damage = ""
        self.finished = False
        self.recording: dict[str, str] = {}
        self.end: dict[str, str] = {}
        self.unwritten: list[dict[str, str]] = []
        self.foreign = 0
        self.set_back = False
        self._until = 0
        self._schemas: dict[int, str] = {}
        self._lost: dict[int, bool] = {}  # whether a channel has gaps, or else events

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    def messages(self) -> Iterator[list[Message]]:
        """Yield the messages, as many at a time as were written together; end where the file is damaged."""
        reader = _Records(self._file, emit_chunks=True, validate_crcs=True, record_size_limit=self.size)
        try:
            for record in reader.records:
                found = self._messages_of(record)
                self.read = self._file.tell()
                if found:
                    yield found
            if (read := self._file.tell()) < self.size:
                raise ValueError(f"{self.size - read} bytes follow its end")
            self.read = read
        except _BROKEN as error:
            cut = self._file.tell() >= self.size
            self.damage = "it ends too early" if cut else str(error) or type(error).__name__

    def _messages_of(self, record: mcap.McapRecord) -> list[Message]:
        if isinstance(record, mcap.Chunk):
            self.set_back = record.message_start_time < self._until - _SET_BACK_NS
            self._until = record.message_end_time
            stream, size = get_chunk_data_stream(record, validate_crc=True)
            return self._split(stream.read(size))
        if isinstance(record, mcap.Message) and (lost := self._lost.get(record.channel_id)) is not None:
            return [(record.publish_time, record.data, lost)]
        self._note(record)
        return []

    def _split(self, data: bytes) -> list[Message]:
        """Return the messages in the records of a chunk."""
        found: list[Message] = []
        add, kinds, unpack = found.append, self._lost, MESSAGE_HEAD.unpack_from
        begin, head = 0, MESSAGE_HEAD.size
        while begin < len(data):
            if data[begin] != Opcode.MESSAGE:
                begin = self._note_inner(data, begin)
                continue
            _, length, channel, _, _, sent = unpack(data, begin)
            end = begin + 9 + length
            if end > len(data):
                raise ValueError("a message is longer than its chunk")
            lost = kinds.get(channel)
            if lost is None:
                self.foreign += 1
            else:
                add((sent, data[begin + head : end], lost))
            begin = end
        return found

    def _note_inner(self, data: bytes, begin: int) -> int:
        """Note a schema or a channel in a chunk, as other programs write them; return where it ends."""
        opcode, length = _RECORD_HEAD.unpack_from(data, begin)
        begin += _RECORD_HEAD.size
        stream = ReadDataStream(io.BytesIO(data[begin : begin + length]))
        if opcode == Opcode.SCHEMA:
            self._note(mcap.Schema.read(stream))
        elif opcode == Opcode.CHANNEL:
            self._note(mcap.Channel.read(stream))
        return int(begin + length)

    def _note(self, record: mcap.McapRecord) -> None:
        if isinstance(record, mcap.Schema):
            self._schemas[record.id] = record.name
        elif isinstance(record, mcap.Channel):
            name = self._schemas.get(record.schema_id)
            if name in (EVENT.name, LOST.name):
                self._lost[record.id] = name == LOST.name
        elif isinstance(record, mcap.Metadata) and record.name == RECORDING:
            self.recording = self.recording or record.metadata
        elif isinstance(record, mcap.Metadata) and record.name == END:
            self.end = record.metadata
        elif isinstance(record, mcap.Metadata) and record.name == UNWRITTEN:
            self.unwritten.append(record.metadata)
        elif isinstance(record, mcap.Footer):
            self.finished = True
