"""Where chunks go: to one file, to a series of files, or into a ring that is written when somebody asks."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Protocol

import orjson

from ..errors import Error
from ..roster.peers import Peer, peers
from .chunk import PackedChunk
from .file import Description, McapFile

__all__ = ["Ring", "Series", "Sink", "Split", "Written", "roster_of"]

Roster = Callable[[], bytes]


class Split(NamedTuple):
    """When a series begins its next file: after so many bytes, or so many seconds."""

    size: int = 0
    seconds: float = 0.0


@dataclass
class Written:
    """What was written.

    Attributes:
        files: their paths.
        size: of all of them together, in bytes.
        events, lost: how many, of each file.
    """

    files: list[str] = field(default_factory=list)
    size: int = 0
    events: int = 0
    lost: int = 0


class Sink(Protocol):
    """Takes chunks. All methods but `__init__` raise `OSError` if a file cannot be written."""

    written: Written

    def write(self, chunk: PackedChunk) -> None:
        """Take a chunk."""

    def save(self) -> None:
        """Write what is only in memory."""

    def finish(self) -> None:
        """Take no more: complete the file."""


class Series:
    """Files `name-0001.mcap` and so on, each with its own beginning and end; or just one, if not split."""

    def __init__(
        self, path: str, description: Description, roster: Roster, split: Split | None = None
    ) -> None:
        """Make the first file."""
        self.written = Written()
        self._names = _numbered(path) if split else iter([path])
        self._split = split or Split()
        self._description = description
        self._roster = roster
        self._open()

    def _open(self) -> None:
        self._begun = time.monotonic()
        self._file = McapFile(next(self._names), self._description, self._roster())
        self.written.files.append(self._file.path)

    def write(self, chunk: PackedChunk) -> None:
        """Write a chunk to the file, or to the next one if this one is full."""
        if self._is_full(chunk):
            self.finish()
            self._open()
        self._file.write(chunk)

    def _is_full(self, chunk: PackedChunk) -> bool:
        """A file has at least one chunk."""
        size, seconds = self._split
        if not self._file.start:
            return False
        larger = size and self._file.size + chunk.size > size
        return bool(larger or (seconds and time.monotonic() - self._begun >= seconds))

    def save(self) -> None:
        """Everything is in the file already."""

    def finish(self) -> None:
        """Complete the file."""
        try:
            self._file.finish(self._roster())
        finally:
            _add(self.written, self._file)


class Ring:
    """The chunks of the last seconds, in memory, and a file `name-0001.mcap` for each time they are saved."""

    def __init__(self, path: str, description: Description, roster: Roster, seconds: float) -> None:
        """Keep `seconds`.

        Raises:
            OSError: no file can be made there.
        """
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, "cannot make files in this directory", folder)
        self.written = Written()
        self._names = _numbered(path)
        self._description = description
        self._roster = roster
        self._kept_ns = int(seconds * 1e9)
        self._chunks: deque[PackedChunk] = deque()

    def write(self, chunk: PackedChunk) -> None:
        """Keep a chunk, and forget what is too old."""
        self._chunks.append(chunk)
        while self._chunks[0].end < chunk.end - self._kept_ns:
            self._chunks.popleft()

    def save(self) -> None:
        """Write everything that is kept to a new file. It stays here as well."""
        file = McapFile(next(self._names), self._description, self._roster())
        self.written.files.append(file.path)
        try:
            oldest = time.time_ns() - self._kept_ns
            for chunk in self._chunks:
                if chunk.end >= oldest:
                    file.write(chunk)
            file.finish(self._roster())
        finally:
            file.close()
            _add(self.written, file)

    def finish(self) -> None:
        """Write what is kept a last time."""
        self.save()


def _add(written: Written, file: McapFile) -> None:
    written.size += file.size
    written.events += file.events
    written.lost += file.lost


def _numbered(path: str) -> Iterator[str]:
    """Yield `name-0001.mcap` and so on, without those that are there already."""
    stem, suffix = os.path.splitext(path)
    for number in count(1):
        if not os.path.lexists(name := f"{stem}-{number:04}{suffix}"):
            yield name


def roster_of(bus: str, dir: str | None) -> bytes:
    """Return who is on a bus, as `zbus ls --json` prints it; an empty list if that cannot be told."""
    found: list[Peer] = []
    with suppress(Error):
        found = peers(bus, dir=dir)
    return orjson.dumps([_plain(peer) for peer in found])


def _plain(value: Any) -> Any:
    """Return named tuples as dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [*map(_plain, value)] if isinstance(value, (tuple, list)) else value
