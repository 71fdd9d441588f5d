"""Members: who is on the bus, for people and tools; the bus itself works without this.

Each bus object has a file on the roster with its counters and a description, locked while its owner lives.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .descriptors import open_files
from .files import is_member, open_regular, read_regular, unlocked
from .location import bus_name, file_errors, locate
from .locks import Lock
from .roster import Entry, Roster, new_id

__all__ = ["Absent", "Member", "Peer", "about_process", "close_inherited", "peers"]


def about_process() -> dict[str, Any]:
    """Return what this process says about itself on the roster."""
    name = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
    return {"process": name, "pid": os.getpid(), "language": "python"}


_ids: set[str] = set()
"""Of the member files that this process has open, or is about to open or to close."""


def close_inherited() -> None:
    """In a forked child: close the parent's member files, also one that a thread had in hand."""
    for number, path in open_files():
        if os.path.basename(path).split(".")[0] in _ids:
            with suppress(OSError):
                os.close(number)
    _ids.clear()


class Member:
    """This process's own file on the roster: who it is, and counters that anybody may read.

    Layout: 16 little-endian unsigned 64-bit counters, then JSON. The lock tells that the owner lives.
    """

    COUNTERS = ("lost", "malformed", "join_timeouts", "send_timeouts", "mismatched")
    HEADER_BYTES = 128

    def __init__(self, roster: Roster, info: dict[str, Any]) -> None:
        """Create the file, locked before anybody can see it."""
        self.id = new_id()
        self._lock = Lock()
        self._added: deque[tuple[str, int]] = deque()
        self._counts = dict.fromkeys(self.COUNTERS, 0)
        self._info = orjson.dumps(info)
        self._path = roster.path / f"{self.id}.member"
        self._fd = -1
        _ids.add(self.id)
        try:
            self._fd = self._create(roster)
        except BaseException:
            self._close()
            raise

    def _create(self, roster: Roster) -> int:
        scratch = roster.scratch_path(self.id)
        with file_errors("write", self._path):
            fd = open_regular(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                counts = b"".join(count.to_bytes(8, "little") for count in self._counts.values())
                os.write(fd, counts.ljust(self.HEADER_BYTES, b"\0") + self._info)
                scratch.rename(self._path)
            except OSError:
                os.close(fd)
                with suppress(OSError):
                    scratch.unlink()
                raise
        return fd

    def listed(self) -> bool:
        """Return whether the file is still where others look for it."""
        try:
            there, here = os.lstat(self._path), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def restore(self, roster: Roster) -> None:
        """Create the file again, with what was counted so far, if it is gone.

        Raises:
            Unavailable: the file system refused.
        """
        if not self.listed():
            with self._lock:
                fd, self._fd = self._fd, self._create(roster)
            os.close(fd)

    def add(self, counter: str, number: int = 1) -> None:
        """Add to one of `COUNTERS`, unless closed; it stays at the largest number it can hold.

        It waits for nobody: a signal handler may come by in the middle, and then wait for another thread that
        is here, too. So who has the lock adds for the others.
        """
        self._added.append((counter, number))
        while self._added and self._lock.acquire(blocking=False):
            try:
                with suppress(IndexError):  # a signal handler was faster
                    self._count(*self._added.popleft())
            finally:
                self._lock.release()

    def _count(self, counter: str, number: int) -> None:
        self._counts[counter] = min(self._counts[counter] + number, 2**64 - 1)
        offset = 8 * self.COUNTERS.index(counter)
        # Not mapped: who truncates a file that is mapped kills its owner, by SIGBUS.
        with suppress(OSError):
            os.pwrite(self._fd, self._counts[counter].to_bytes(8, "little"), offset)

    def close(self) -> None:
        """Remove the file and let go of the lock."""
        with suppress(OSError):
            self._path.unlink()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # the number may soon be another file's
        if fd >= 0:
            os.close(fd)
        _ids.discard(self.id)

    def disown(self) -> None:
        """In a forked child: let go of the parent's lock, so that it does not outlive the parent."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    @classmethod
    def read(cls, path: Path) -> Peer:
        """Return what the member file at `path` says.

        Raises:
            OSError, ValueError: it is gone or garbled.
        """
        raw = read_regular(path)
        if len(raw) < cls.HEADER_BYTES:
            raise ValueError("a member file begins with 16 counters")
        counters = dict(zip(cls.COUNTERS, memoryview(raw[: cls.HEADER_BYTES]).cast("Q"), strict=False))
        info = orjson.loads(raw[cls.HEADER_BYTES :])
        if not isinstance(info, dict):
            raise ValueError("a member file holds a JSON object")
        return Peer(*_who(info), "member", "", [], not unlocked(path), counters)


class Absent(Member):
    """In place of a member, for a process that is about to be gone: it has no file."""

    def __init__(self) -> None:
        self.id = ""

    def add(self, counter: str, number: int = 1) -> None:
        """Count nothing."""

    def listed(self) -> bool:
        """Return whether all is as it should be."""
        return True

    def restore(self, roster: Roster) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    disown = close


class Peer(NamedTuple):
    """One way a process takes part in a bus, as `peers` shows it.

    Attributes:
        process: name of the program.
        pid: its process id, as the process itself sees it.
        language: of the program, for example `python`.
        role: `"member"` (it opened the bus) or `"subscriber"` (it listens; one for each ingress).
        overflow: `"drop"` or `"block"` of a subscriber, else empty.
        patterns: `(system, kind)` pairs that a subscriber listens to.
        alive: whether it is there; what is dead is removed when the next process joins.
        counters: of a member: events and time-outs counted so far, by name.
    """

    process: str
    pid: int
    language: str
    role: str
    overflow: str
    patterns: list[tuple[str, str]]
    alive: bool
    counters: dict[str, int]


def peers(bus: str | None = None, *, dir: str | os.PathLike[str] | None = None) -> list[Peer]:
    """Return who is on `bus` (`None`: as for `Bus`), without joining it and without touching anything.

    Raises:
        TypeError, Invalid, PermissionDenied, Unavailable: as `Bus` does. A bus that nobody has opened is
            empty.
    """
    bus = bus_name(bus)
    if not locate(dir, bus).is_dir():
        return []
    roster = Roster(dir, bus)
    try:
        found = [_subscriber(roster, entry) for entry in roster.entries().values()]
        for name in os.listdir(roster.path):
            if is_member(name):
                with suppress(OSError, ValueError):  # gone meanwhile, or not of our making
                    found.append(Member.read(roster.path / name))
    finally:
        roster.close()
    return sorted(found, key=lambda peer: (peer.pid, peer.role, peer.overflow, peer.patterns))


def _subscriber(roster: Roster, entry: Entry) -> Peer:
    info = roster.info(entry)
    pairs = info.get("patterns")
    patterns = [(str(pair[0]), str(pair[1])) for pair in pairs] if isinstance(pairs, list) else []
    return Peer(*_who(info), "subscriber", entry.overflow, patterns, roster.alive(entry.id), {})


def _who(info: dict[str, Any]) -> tuple[str, int, str]:
    pid = info.get("pid")
    return str(info.get("process", "?")), pid if isinstance(pid, int) else 0, str(info.get("language", "?"))
