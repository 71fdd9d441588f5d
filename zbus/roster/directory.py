"""The roster: the bus directory, where processes find each other.

`docs/spec/roster.md` specifies it. The guarantees come from the order of writes and reads:

- Whoever changes entries writes a new token *afterwards*. A reader remembers the token, *then* lists.
- The entry of a new epoch appears *before* the token changes, and the old one goes *after* that. So a listing
  that overlaps the change either shows the ingress or ends with a changed token.
- A socket gets its name only once it listens. So a socket that has the name and refuses connections is dead.

A process may die without cleaning up, so whoever finds a dead entry removes it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from ..errors import Error, Unavailable
from ..runtime.clock import clock
from ..runtime.locks import Lock
from .directory_handle import DirectoryHandle
from .file_access import Identity, identity, open_regular, write_regular
from .file_names import Entry, entries_by_id, is_member, newest
from .liveness import answers, unlocked
from .location import chosen_root, file_errors, locate
from .permissions import Permissions, set_permissions
from .reaping import Reaper, remove

__all__ = ["Entry", "Roster", "clock", "new_id"]

_ID_BYTES = 8
# How long one call may clean up: a join waits for the first, a send for the second.
_REAP_SECONDS = 0.2
_REMOVE_SECONDS = 0.02


def new_id() -> str:
    """Return a fresh random id: 16 hex digits, never reused."""
    return os.urandom(_ID_BYTES).hex()


class Roster:
    """The directory of one bus, open for reading and writing.

    Attributes:
        path: the directory.
        token: one unsigned 64-bit number, mapped into memory. Reading `token[0]` costs 40 ns; when it has
            changed, the roster has changed.
        generation: 1, and one more each time the directory or the token was replaced by others.
        token_missing: whether there were members but no token when this roster was opened.
    """

    def __init__(self, root: str | os.PathLike[str] | None, bus: str) -> None:
        """Open the roster of `bus`, creating what is missing.

        Raises:
            TypeError, Invalid: see `locate`.
            PermissionDenied: this user may not use a directory on the path.
            Unavailable: the file system refused.
        """
        self.path = locate(root, bus)
        self._default = chosen_root(root) is None
        self.token_missing = self._has_lost_its_token()
        self._lock = Lock()
        self._handle = DirectoryHandle(self.path, default=self._default)
        self._previous: list[DirectoryHandle] = []
        self.token = self._handle.token.value
        self.generation = 1
        self._reaper = Reaper(self.path, self.alive)
        # By the id of an ingress: the names of its entries in the last listing, and those of our own;
        self._listed: dict[str, list[str]] = {}
        self._own: dict[str, set[str]] = {}
        # which file our own sockets are, and which the sockets were that did not answer.
        self._sockets: dict[str, Identity | None] = {}
        self._dead: dict[str, Identity | None] = {}

    def _has_lost_its_token(self) -> bool:
        """Return whether live members have no token, because somebody removed it.

        A member creates the token before its own file. So if a member is alive and there is no token, it was
        removed. The token is looked for again at the end: the first member may have just created it.
        """
        try:
            names = os.listdir(self.path)
        except OSError:
            return False
        if "token" in names:
            return False
        members = [self.path / name for name in names if is_member(name)]
        return any(not unlocked(file) for file in members) and not os.path.exists(self.path / "token")

    @property
    def permissions(self) -> Permissions:
        """The permissions of what is created in the directory."""
        return self._handle.permissions

    def current(self) -> bool:
        """Return whether the directory and the token are still those at the path. Takes 5 µs."""
        return self._handle.current()

    def follow(self) -> memoryview:
        """Return the token of the directory that is at the path now.

        Somebody may have removed and recreated the directory. If it cannot be opened, the old token stays.
        """
        if not self.current():
            with suppress(Error):
                self.reopen()
        return self.token

    def reopen(self) -> None:
        """Switch to the directory and token that are at the path now, creating what is missing.

        Raises:
            PermissionDenied, Unavailable: see `Roster`.
        """
        with self._lock:
            if self._handle.current():
                return
            handle = DirectoryHandle(self.path, default=self._default, previous=self.permissions)
            self._previous.append(self._handle)
            self._handle, self.token = handle, handle.token.value
            self.generation += 1

    def notify_previous(self) -> None:
        """Write the previous tokens, so that whoever still reads them, such as our publisher, looks again."""
        with self._lock:
            while self._previous:
                handle = self._previous.pop()
                with suppress(OSError):
                    handle.token.write()
                handle.retire()

    def close(self) -> None:
        """Close the directory. The files stay: they belong to whoever wrote them."""
        with self._lock:
            while self._previous:
                self._previous.pop().retire()
            self._handle.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: close the parent's descriptors, so that its locks do not outlive it."""
        for handle in (*self._previous, self._handle):
            handle.retire()

    def touch(self) -> int:
        """Write a new token, so that everybody looks again; return the time just before, see `clock`.

        Raises:
            Unavailable: the file system refused.
        """
        now = clock()
        with file_errors("write", self.path / "token"):
            self._handle.token.write()
        return now

    def entries(self) -> dict[str, Entry]:
        """Return the newest entry of each ingress, by id, as of one moment.

        Lists again if the token has changed meanwhile: a directory is read in pieces, which can miss an entry
        that is being replaced. Ingresses that were found dead (see `alive`) are left out unless they have a
        new socket: perhaps their files cannot be removed.
        """
        while True:
            before = self.token[0]
            with file_errors("list", self.path):
                listed = entries_by_id(os.listdir(self.path))
            if self.token[0] == before:
                self._listed = {ident: [entry.name for entry in entries] for ident, entries in listed.items()}
                found = {ident: newest(entries) for ident, entries in listed.items()}
                for ident in self._still_dead(self._listed):
                    del found[ident]
                return found

    def _still_dead(self, listed: dict[str, list[str]]) -> list[str]:
        still = []
        for ident in [*self._dead]:
            if ident not in listed or identity(self.socket_path(ident)) != self._dead.get(ident):
                self._dead.pop(ident, None)
            else:
                still.append(ident)
        return still

    def socket_path(self, ident: str) -> Path:
        """Return the path of an ingress's socket."""
        return self.path / f"{ident}.sock"

    def scratch_path(self, ident: str) -> Path:
        """Return the path at which to bind or write before a rename makes the file visible."""
        return self.path / f"{ident}.new"

    def show_socket(self, ident: str) -> None:
        """Rename the socket that listens at the scratch path to its visible name."""
        path = self.socket_path(ident)
        with file_errors("create", path):
            set_permissions(self.scratch_path(ident), self.permissions)
            self.scratch_path(ident).rename(path)
        self._sockets[ident] = identity(path)

    def has_socket(self, ident: str) -> bool:
        """Return whether the socket of one of our ingresses is still where others look for it."""
        ours = self._sockets.get(ident)
        return ours is not None and identity(self.socket_path(ident)) == ours

    def has_entry(self, entry: Entry) -> bool:
        """Return whether one of our entries is still there."""
        with suppress(OSError):
            return stat.S_ISREG(os.lstat(self.path / entry.name).st_mode)
        return False

    def restore(self, entry: Entry, info: dict[str, Any]) -> None:
        """Write one of our entries again if it is gone, without changing the token.

        Raises:
            Unavailable: the file system refused.
        """
        if not self.has_entry(entry):
            self._write_entry(entry, info)

    def announce(self, entry: Entry, info: dict[str, Any], previous: Entry) -> int:
        """Write `entry`, then the token, then remove the `previous` entry unless its epoch is 0.

        Returns:
            The time just before the token was written: until then nobody could know. See `clock`.

        Raises:
            Unavailable: the file system refused; `entry` is not there.
        """
        self._write_entry(entry, info)
        names = self._own[entry.id]
        try:
            announced_at = self.touch()
        except Unavailable:
            if remove(self.path / entry.name):
                names.discard(entry.name)
            raise
        if previous.epoch and remove(self.path / previous.name):
            names.discard(previous.name)
        return announced_at

    def _write_entry(self, entry: Entry, info: dict[str, Any]) -> None:
        scratch, path = self.scratch_path(entry.id), self.path / entry.name
        with file_errors("write", path):
            try:
                write_regular(scratch, orjson.dumps(info), self.permissions.file_mode)
                scratch.rename(path)
            except OSError:
                remove(scratch)
                raise
        self._own.setdefault(entry.id, set()).add(entry.name)

    def describe(self, entry: Entry, info: dict[str, Any]) -> None:
        """Rewrite the description in `entry`, which is for people and tools. The token stays.

        The file is written in place. With a rename, a listing could miss the name, and publishers would
        disconnect a live ingress. A reader that finds it half written treats it as having no description.
        """
        with suppress(OSError), open(open_regular(self.path / entry.name, os.O_RDWR), "r+b") as file:
            file.write(orjson.dumps(info))
            file.truncate()

    def withdraw(self, ident: str) -> None:
        """Remove every file of one of our ingresses, entries first, and write the token."""
        names = self._own.get(ident, set())
        paths = [*(self.path / name for name in names), self.socket_path(ident), self.scratch_path(ident)]
        if remove(*paths):
            self._announce_removal()
        self._own.pop(ident, None)  # last, so that the next call finishes one that was interrupted
        self._sockets.pop(ident, None)

    def remove_dead(self, idents: Iterable[str]) -> None:
        """Remove the files of ingresses that were found dead, as of the last listing, and write the token.

        Files that cannot be removed, or not in so short a time, are no longer listed either.
        """
        names = {ident: self._listed.get(ident, []) for ident in idents}
        if self._reaper.remove_ingresses(names, _REMOVE_SECONDS):
            self._announce_removal()

    def alive(self, ident: str) -> bool:
        """Return whether a process listens on the socket of an ingress. In doubt, it does."""
        path = self.socket_path(ident)
        before = identity(path)
        if answers(path):
            return True
        self._dead[ident] = before
        return False

    def reap(self) -> None:
        """Remove what dead processes left behind, for at most 0.2 s; the next call removes the rest."""
        if self._reaper.reap(_REAP_SECONDS):
            self._announce_removal()

    def continue_reaping(self) -> bool:
        """Remove what the last call left, for at most 0.02 s; return whether something is left."""
        self._handle.lock()  # again, in case a cleaner of temporary files held the lock
        with suppress(Error):
            if self._reaper.unfinished and self._reaper.reap(_REMOVE_SECONDS):
                self._announce_removal()
        return self._reaper.unfinished

    def _announce_removal(self) -> None:
        """Write the token if the file system allows. A process that misses a removal notices it later."""
        with suppress(Unavailable):
            self.touch()
