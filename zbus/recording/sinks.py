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
from .unwritten import Unwritten

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
        unwritten: how many events arrived and are in no file; final once the recorder has ended.
    """

    files: list[str] = field(default_factory=list)
    size: int = 0
    events: int = 0
    lost: int = 0
    unwritten: int = 0


class Sink(Protocol):
    """Takes chunks. All methods but `__init__` raise `OSError` if a file cannot be written."""

    written: Written

    def write(self, chunk: PackedChunk) -> None:
        """Take a chunk."""

    def save(self) -> None:
        """Write what is only in memory."""

    def finish(self, unwritten: Unwritten) -> None:
        """Take no more: complete the file, which tells of what arrived and is in no file."""


class _Files:
    """What makes files and counts what is in them."""

    def __init__(self, names: Iterator[str], description: Description, roster: Roster) -> None:
        self.written = Written()
        self._names = names
        self._description = description
        self._roster = roster

    def _open(self) -> McapFile:
        return McapFile(next(self._names), self._description, self._roster())

    def _complete(self, file: McapFile, unwritten: Unwritten) -> None:
        """Complete a file and count what is in it, even if it could not be completed."""
        removed = file.removed
        try:
            file.finish(self._roster(), unwritten)
        finally:
            self.written.unwritten += unwritten.events
            if removed:
                self.written.unwritten += file.events
            else:
                self._count(file)

    def _count(self, file: McapFile) -> None:
        written = self.written
        written.files.append(file.path)
        written.size += file.size
        written.events += file.events
        written.lost += file.lost


class Series(_Files):
    """Files `name-0001.mcap` and so on, each with its own beginning and end; or just one, if not split."""

    def __init__(
        self, path: str, description: Description, roster: Roster, split: Split | None = None
    ) -> None:
        """Make the first file."""
        super().__init__(_numbered(path) if split else iter([path]), description, roster)
        self._split = split or Split()
        self._begun = time.monotonic()
        self._file = self._open()

    def write(self, chunk: PackedChunk) -> None:
        """Write a chunk to the file, or to the next one if this one is full."""
        if self._is_full(chunk):
            # The next file is made first: if there is no room for it, the end of this one tells what is
            # missing.
            full, self._file = self._file, self._open()
            self._begun = time.monotonic()
            self._complete(full, Unwritten())
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

    def finish(self, unwritten: Unwritten) -> None:
        """Complete the file."""
        self._complete(self._file, unwritten)


class Ring(_Files):
    """The chunks of the last seconds, in memory, and a file `name-0001.mcap` for each time they are saved."""

    def __init__(self, path: str, description: Description, roster: Roster, seconds: float) -> None:
        """Keep `seconds`.

        Raises:
            OSError: no file can be made there.
        """
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, "cannot make files in this directory", folder)
        super().__init__(_numbered(path), description, roster)
        self._seconds = seconds
        self._chunks: deque[tuple[float, PackedChunk]] = deque()  # with when each came

    def write(self, chunk: PackedChunk) -> None:
        """Keep a chunk, and forget what is too old."""
        # Not by the times in it: the clock of the machine may be set meanwhile.
        self._chunks.append((time.monotonic(), chunk))
        self._forget()

    def _forget(self) -> None:
        oldest = time.monotonic() - self._seconds
        while self._chunks and self._chunks[0][0] < oldest:
            self._chunks.popleft()

    def save(self) -> None:
        """Write everything that is kept to a new file; it stays here as well."""
        self._forget()
        file = self._open()
        try:
            for _, chunk in self._chunks:
                file.write(chunk)
            file.finish(self._roster(), Unwritten())
        except BaseException:
            file.remove()  # the next one has everything that is in it
            raise
        self._count(file)

    def finish(self, unwritten: Unwritten) -> None:
        """Write what is kept a last time, as much of it as possible."""
        self._forget()
        file: McapFile | None = None
        try:
            file = self._open()
            while self._chunks:
                file.write(self._chunks[0][1])
                self._chunks.popleft()
        finally:
            for _, chunk in self._chunks:
                unwritten.add(chunk)
            if file is None:
                self.written.unwritten += unwritten.events
            else:
                self._complete(file, unwritten)


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
