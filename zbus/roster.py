"""The roster: the bus directory, which is all the discovery there is on one machine.

`docs/spec/roster.md` is the norm. The order of writes and reads carries the guarantees:

- a changer changes entries, *then* writes a new token; a reader remembers the token, *then* lists;
- a new epoch's entry appears *before* the token moves and the old one goes *after*, so that a listing
  that overlaps the change either shows the ingress or ends with a token that has moved;
- a socket gets its name only once it listens, so whatever has the name and refuses is dead.

No process is trusted to clean up after itself: whoever finds a dead entry removes it.
"""

from __future__ import annotations

import mmap
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .errors import Unavailable
from .liveness import answers, unlocked
from .location import check_private, file_errors, locate

__all__ = [
    "Entry",
    "Roster",
    "clock",
    "new_id",
]

_TOKEN_BYTES = 8
_ID_DIGITS = 16
_ENTRY = re.compile(r"([0-9a-f]{8,32})\.([0-9]{1,18})\.(drop|block)")
_SCRATCH_SECONDS = 86_400.0  # a day: files carry the time of a clock that somebody may set


class Entry(NamedTuple):
    """One listening ingress: its id, subscription epoch, and overflow policy (`drop` or `block`)."""

    id: str
    epoch: int
    overflow: str


def clock() -> int:
    """Return the time by which peers compare notes: CLOCK_MONOTONIC in microseconds."""
    return time.monotonic_ns() // 1000


def new_id() -> str:
    """Return a fresh random id: 16 hex digits, never reused."""
    return os.urandom(_ID_DIGITS // 2).hex()


class Roster:
    """The directory of one bus, open for reading and writing.

    Attributes:
        path: the directory.
        token: one unsigned 64-bit number, mapped; `token[0]` costs 40 ns, and any change of it means that
            the roster changed.
    """

    def __init__(self, root: str | os.PathLike[str] | None, bus: str) -> None:
        """Open the roster of `bus`, creating what is missing.

        Raises:
            TypeError, Invalid: see `locate`.
            PermissionDenied: a directory on the way is not private.
            Unavailable: the file system refused.
        """
        self.path = locate(root, bus)
        top = self.path.parent.parent
        with file_errors("create", top.parent), suppress(FileExistsError):
            top.parent.mkdir(parents=True)
        for path in (top, self.path.parent, self.path):
            with file_errors("create", path), suppress(FileExistsError):
                path.mkdir(mode=0o700)
            check_private(path)
        self._map = self._open_token()
        self.token = memoryview(self._map).cast("Q")

    def _open_token(self) -> mmap.mmap:
        path = self.path / "token"
        if not path.exists():
            self._check_unused()
        with file_errors("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # Empty: new, or cut short by a crash. The write also makes sure that the page exists: a
                # mapping of a hole on a full disk would kill the process at its first use.
                if os.fstat(fd).st_size < _TOKEN_BYTES:
                    os.pwrite(fd, os.urandom(_TOKEN_BYTES), 0)
                return mmap.mmap(fd, _TOKEN_BYTES)
            finally:
                os.close(fd)

    def _check_unused(self) -> None:
        """Refuse to make a second token beside living members: they would not notice each other's changes.

        A member has a token from before it has a file. So if one lives and there is still no token, it was
        removed; that there was none before may just mean that the first member was about to make it.
        """
        living = any(not unlocked(file) for file in self.path.glob("*.member"))
        if living and not (self.path / "token").exists():
            raise Unavailable(
                f"the token of a running bus was removed from {self.path}: end the processes that use it, and"
                " start them again",
                path=str(self.path),
            )

    def close(self) -> None:
        """Unmap the token. The files stay: they belong to whoever wrote them."""
        self.token.release()
        self._map.close()

    def touch(self) -> int:
        """Tell everybody that the roster changed; return the time just before, see `clock`."""
        token, now = os.urandom(_TOKEN_BYTES), clock()
        self._map[:] = token
        return now

    def entries(self) -> dict[str, Entry]:
        """List the ingresses by id, each with its highest epoch, as of one moment.

        Lists again while the token moves: a directory read in several pieces can miss an entry that is
        replaced meanwhile, and the replacement has moved the token.
        """
        while True:
            before = self.token[0]
            found: dict[str, Entry] = {}
            with file_errors("list", self.path):
                names = os.listdir(self.path)
            for name in names:
                if match := _ENTRY.fullmatch(name):
                    entry = Entry(match[1], int(match[2]), match[3])
                    if entry.id not in found or found[entry.id].epoch < entry.epoch:
                        found[entry.id] = entry
            if self.token[0] == before:
                return found

    def socket_path(self, ident: str) -> Path:
        """Return the path of an ingress's socket."""
        return self.path / f"{ident}.sock"

    def scratch_path(self, ident: str) -> Path:
        """Return the path at which to bind or write before `rename` makes it visible."""
        return self.path / f"{ident}.new"

    def socket_names(self, ident: str) -> tuple[str, str]:
        """Return what the kernel may call an ingress's socket: its path, or the one it was bound at."""
        return str(self.socket_path(ident)), str(self.scratch_path(ident))

    def show_socket(self, ident: str) -> None:
        """Give the socket that listens at the scratch path its name."""
        path = self.socket_path(ident)
        with file_errors("create", path):
            self.scratch_path(ident).rename(path)

    def has_socket(self, ident: str) -> bool:
        """Return whether an ingress's socket is still where others look for it."""
        return self.socket_path(ident).is_socket()

    def announce(self, entry: Entry, info: dict[str, Any], previous: Entry) -> int:
        """Show `entry`, in place of `previous`, the one shown before, if its epoch is not 0.

        Returns:
            The time until which nobody knew; see `clock`.
        """
        scratch = self.scratch_path(entry.id)
        path = self._entry_path(entry)
        with file_errors("write", path):
            try:
                scratch.write_bytes(orjson.dumps(info))
                scratch.rename(path)
            except OSError:
                with suppress(OSError):
                    scratch.unlink()
                raise
        asked = self.touch()
        if previous.epoch:
            with suppress(FileNotFoundError):
                self._entry_path(previous).unlink()
        return asked

    def describe(self, entry: Entry, info: dict[str, Any]) -> None:
        """Rewrite what `entry` says about itself to people and tools; nobody need look again.

        In place: a listing could miss a name that another file is renamed to meanwhile, and publishers would
        let go of an ingress that lives. A reader may find it half written, which is no text to them.
        """
        with suppress(OSError), open(self._entry_path(entry), "r+b") as file:
            file.write(orjson.dumps(info))
            file.truncate()

    def _entry_path(self, entry: Entry) -> Path:
        return self.path / f"{entry.id}.{entry.epoch}.{entry.overflow}"

    def info(self, entry: Entry) -> dict[str, Any]:
        """Return what an entry says about itself; empty if it is unreadable or gone."""
        with suppress(OSError, orjson.JSONDecodeError):
            info = orjson.loads(self._entry_path(entry).read_bytes())
            if isinstance(info, dict):
                return info
        return {}

    def withdraw(self, ident: str) -> None:
        """Remove every file of an ingress, entries first, and tell everybody."""
        names = [name for name in os.listdir(self.path) if name.startswith(f"{ident}.")]
        for name in sorted(names, key=_sockets_last):
            with suppress(OSError):
                (self.path / name).unlink()
        self.touch()

    def alive(self, ident: str) -> bool:
        """Return whether somebody listens on an ingress's socket. In doubt, yes: never reap the living."""
        return answers(self.socket_path(ident))

    def reap(self) -> int:
        """Remove what dead processes left behind; return how many ingresses and members that were."""
        names = os.listdir(self.path)
        listed = {match[1] for name in names if (match := _ENTRY.fullmatch(name))}
        listed |= {name[:-5] for name in names if name.endswith(".sock")}
        dead = {ident for ident in listed if not self.alive(ident)}
        for name in sorted(names, key=_sockets_last):
            path = self.path / name
            owner = name.split(".")[0]
            stale = owner in dead and not name.endswith(".member")
            if (
                stale
                or (name.endswith(".member") and unlocked(path))
                or (name.endswith(".new") and _old(path))
            ):
                with suppress(OSError):
                    path.unlink()
                if name.endswith(".member"):
                    dead.add(name)
        if dead:
            self.touch()
        return len(dead)


def _sockets_last(name: str) -> bool:
    """Sort entries before the sockets by which others see whether they are alive."""
    return name.endswith(".sock")


def _old(path: Path) -> bool:
    """Return whether a file that is visible for microseconds has been there for long."""
    try:
        return time.time() - path.stat().st_mtime > _SCRATCH_SECONDS
    except OSError:
        return False
