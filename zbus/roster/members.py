"""Member files: what a process shows of itself to people and tools. The bus works without them.

Each bus object has one, with its counters and a description. The file is locked while its owner is alive.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from contextlib import suppress
from typing import Any

import orjson

from ..runtime.descriptors import open_files
from ..runtime.lifecycle import close_inherited
from ..runtime.locks import Lock
from .directory import Roster, new_id
from .file_access import create_regular, leads_to, write_all
from .location import file_errors
from .numbers import write_numbers

__all__ = ["Member", "UnlistedMember", "mark_origins"]


_ORIGINS_SHOWN = 100
_ids: set[str] = set()
"""The ids of the member files that this process has open, or is about to open or close."""


@close_inherited
def _close_inherited() -> None:
    """In a forked child: close the parent's member files, even one that a thread is about to open."""
    for number, path in open_files():
        if os.path.basename(path).split(".")[0] in _ids:
            with suppress(OSError):
                os.close(number)
    _ids.clear()


_mark = ""


def mark_origins(mark: str) -> None:
    """Have the origins of this process begin with `mark`, at most eight hex digits, from now on."""
    global _mark
    _mark = mark


def _new_origin() -> str:
    origin = new_id()
    return _mark + origin[len(_mark) :]


class Member:
    """The member file of one bus object: a description of the process, and counters that anybody may read.

    It holds 16 little-endian unsigned 64-bit counters, then JSON, then live numbers (see `numbers`). While it
    is locked, its owner is alive.
    """

    COUNTERS = ("lost", "malformed", "join_timeouts", "send_timeouts", "mismatched")
    HEADER_BYTES = 128

    def __init__(self, roster: Roster, info: dict[str, Any]) -> None:
        """Create the file, and lock it before anybody can see it."""
        self.id = new_id()
        self._lock = Lock()
        self._added: deque[tuple[str, int]] = deque()
        self._counts = dict.fromkeys(self.COUNTERS, 0)
        self._origins: list[str] = []
        self._publications = 0  # in the present file
        self._numbers = b""
        self._info = info
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
            fd = create_regular(scratch, roster.permissions.file_mode)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                counts = b"".join(count.to_bytes(8, "little") for count in self._counts.values())
                write_all(fd, counts.ljust(self.HEADER_BYTES, b"\0") + self._text())
                scratch.rename(self._path)
            except OSError:
                os.close(fd)
                with suppress(OSError):
                    scratch.unlink()
                raise
        return fd

    def _text(self) -> bytes:
        return orjson.dumps({**self._info, "origins": self._origins})

    def new_origin(self) -> str:
        """Return a new origin for the publisher of this process; the file shows it first."""
        origin = _new_origin()
        with self._lock:
            self._origins = [*self._origins, origin][-_ORIGINS_SHOWN:]
            # Written in place, as an entry is: whoever reads half of it reads again. It never gets shorter.
            with suppress(OSError):
                os.pwrite(self._fd, self._text(), self.HEADER_BYTES)
        self._count_added()
        return origin

    def publish(self, numbers: bytes) -> None:
        """Publish live numbers, as `docs/spec/roster.md` says, if the file system has room for them."""
        with self._lock:
            self._numbers = numbers
            self._publish()
        self._count_added()

    def _publish(self) -> None:
        with suppress(OSError):
            write_numbers(self._fd, self._publications + 1, self._numbers)
            self._publications += 1

    def listed(self) -> bool:
        """Return whether the file is still where others look for it."""
        return leads_to(self._path, self._fd)

    def restore(self, roster: Roster) -> None:
        """Create the file again, with the counters so far, if it is gone.

        Raises:
            Unavailable: the file system refused.
        """
        if not self.listed():
            with self._lock:
                fd, self._fd = self._fd, self._create(roster)
                self._publications = 0
                if self._numbers:
                    self._publish()
            os.close(fd)
            self._count_added()

    def add(self, counter: str, number: int = 1) -> None:
        """Add to one of `COUNTERS`, which does not wrap around. Does nothing once closed.

        It never waits for the lock: a signal handler may interrupt it, and would wait for a thread that waits
        for this one. Whoever has the lock adds for the others.
        """
        self._added.append((counter, number))
        self._count_added()

    def _count_added(self) -> None:
        """Count what was added while somebody had the lock."""
        while self._added and self._lock.acquire(blocking=False):
            try:
                with suppress(IndexError):  # a signal handler was faster
                    self._count(*self._added.popleft())
            finally:
                self._lock.release()

    def _count(self, counter: str, number: int) -> None:
        self._counts[counter] = min(self._counts[counter] + number, 2**64 - 1)
        offset = 8 * self.COUNTERS.index(counter)
        # Not mapped: truncating a mapped file kills its owner with SIGBUS.
        with suppress(OSError):
            os.pwrite(self._fd, self._counts[counter].to_bytes(8, "little"), offset)

    def close(self) -> None:
        """Remove the file and release the lock."""
        with suppress(OSError):
            self._path.unlink()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # first, since the descriptor may be reused at once
        if fd >= 0:
            os.close(fd)
        _ids.discard(self.id)

    def after_fork_in_child(self) -> None:
        """In a forked child: close the parent's file, so that its lock does not outlive the parent."""
        fd, self._fd = self._fd, -1
        os.close(fd)


class UnlistedMember(Member):
    """Stands in for a member in a process that is about to exit: it has no file."""

    def __init__(self) -> None:
        self.id = ""

    def add(self, counter: str, number: int = 1) -> None:
        """Count nothing."""

    def new_origin(self) -> str:
        """Return a new origin; no file shows it."""
        return new_id()

    def publish(self, numbers: bytes) -> None:
        """Publish nothing."""

    def listed(self) -> bool:
        """Return true: there is no file to miss."""
        return True

    def restore(self, roster: Roster) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    after_fork_in_child = close
