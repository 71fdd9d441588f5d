"""The roster: the bus directory, which is all the discovery there is on one machine.

`docs/spec/roster.md` is the norm. The order of writes and reads carries the guarantees:

- a changer changes entries, *then* writes a new token; a reader remembers the token, *then* lists;
- a new epoch's entry appears *before* the token moves and the old one goes *after*, so that a listing
  that overlaps the change either shows the ingress or ends with a token that has moved;
- a socket gets its name only once it listens, so whatever has the name and refuses is dead.

No process is trusted to clean up after itself: whoever finds a dead entry removes it.
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
# How long one call may clean up: on the way of who joins, and of who sends.
_REAP_SECONDS = 0.2
_REMOVE_SECONDS = 0.02


def new_id() -> str:
    """Return a fresh random id: 16 hex digits, never reused."""
    return os.urandom(_ID_BYTES).hex()


class Roster:
    """The directory of one bus, open for reading and writing.

    Attributes:
        path: the directory.
        token: one unsigned 64-bit number, mapped; `token[0]` costs 40 ns, and any change of it means that
            the roster changed.
        generation: how often the directory or the token was found to be another one, and 1.
        token_missing: whether there were members but no token, when this roster was opened.
    """

    def __init__(self, root: str | os.PathLike[str] | None, bus: str) -> None:
        """Open the roster of `bus`, creating what is missing.

        Raises:
            TypeError, Invalid: see `locate`.
            PermissionDenied: a directory on the way is not for this user.
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
        self._listed: dict[str, list[str]] = {}  # the names of each ingress's entries, as of the last listing
        self._own: dict[str, set[str]] = {}  # the same of our own
        self._sockets: dict[str, Identity | None] = {}  # our own
        self._dead: dict[str, Identity | None] = {}  # that did not answer, with the socket they had then

    def _has_lost_its_token(self) -> bool:
        """Return whether members live here that have no token: somebody removed it.

        A member has a token from before it has a file. So if one lives and there is still no token, it was
        removed; that there was none before may just mean that the first member was about to make it.
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
        """The rights of what is made in the directory."""
        return self._handle.permissions

    def current(self) -> bool:
        """Return whether the directory and the token are still those at the path. Takes 5 us."""
        return self._handle.current()

    def follow(self) -> memoryview:
        """Return the token to compare from now on, of the directory that is at the path now.

        Others may have removed the one before, and made it anew. If there can be none, the old one stays.
        """
        if not self.current():
            with suppress(Error):
                self.reopen()
        return self.token

    def reopen(self) -> None:
        """Go over to the directory and token that are at the path now, creating what is missing.

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
        """Tell those who still look at the former tokens, our own publisher too, that the roster changed."""
        with self._lock:
            while self._previous:
                handle = self._previous.pop()
                with suppress(OSError):
                    handle.token.write()
                handle.retire()

    def close(self) -> None:
        """Let go of the directory. The files stay: they belong to whoever wrote them."""
        with self._lock:
            while self._previous:
                self._previous.pop().retire()
            self._handle.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: let go of what the parent holds, so that it does not outlive the parent."""
        for handle in (*self._previous, self._handle):
            handle.retire()

    def touch(self) -> int:
        """Tell everybody that the roster changed; return the time just before, see `clock`.

        Raises:
            Unavailable: the file system refused.
        """
        now = clock()
        with file_errors("write", self.path / "token"):
            self._handle.token.write()
        return now

    def entries(self) -> dict[str, Entry]:
        """List the ingresses by id, each with its highest epoch, as of one moment.

        Lists again while the token moves: a directory read in several pieces can miss an entry that is
        replaced meanwhile, and the replacement has moved the token. Leaves out whoever was found dead (see
        `alive`) and has no other socket since: its files may be there to stay.
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
        """Return the path at which to bind or write before `rename` makes it visible."""
        return self.path / f"{ident}.new"

    def show_socket(self, ident: str) -> None:
        """Give the socket that listens at the scratch path its name."""
        path = self.socket_path(ident)
        with file_errors("create", path):
            set_permissions(self.scratch_path(ident), self.permissions)
            self.scratch_path(ident).rename(path)
        self._sockets[ident] = identity(path)

    def has_socket(self, ident: str) -> bool:
        """Return whether the socket of an ingress of ours is still where others look for it."""
        ours = self._sockets.get(ident)
        return ours is not None and identity(self.socket_path(ident)) == ours

    def has_entry(self, entry: Entry) -> bool:
        """Return whether an entry of ours is still there."""
        with suppress(OSError):
            return stat.S_ISREG(os.lstat(self.path / entry.name).st_mode)
        return False

    def restore(self, entry: Entry, info: dict[str, Any]) -> None:
        """Show an entry of ours again if it is gone; nobody is told.

        Raises:
            Unavailable: the file system refused.
        """
        if not self.has_entry(entry):
            self._write_entry(entry, info)

    def announce(self, entry: Entry, info: dict[str, Any], previous: Entry) -> int:
        """Show `entry`, in place of `previous`, the one shown before, if its epoch is not 0.

        Returns:
            The time until which nobody knew; see `clock`.

        Raises:
            Unavailable: the file system refused; then `entry` is not shown.
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
        """Rewrite what `entry` says about itself to people and tools; nobody need look again.

        In place: a listing could miss a name that another file is renamed to meanwhile, and publishers would
        let go of an ingress that lives. A reader may find it half written, which is no text to them.
        """
        with suppress(OSError), open(open_regular(self.path / entry.name, os.O_RDWR), "r+b") as file:
            file.write(orjson.dumps(info))
            file.truncate()

    def withdraw(self, ident: str) -> None:
        """Remove every file of an ingress of ours, entries first, and tell everybody."""
        names = self._own.get(ident, set())
        paths = [*(self.path / name for name in names), self.socket_path(ident), self.scratch_path(ident)]
        if remove(*paths):
            self._announce_removal()
        self._own.pop(ident, None)  # last: an interrupt leaves the rest to the next time
        self._sockets.pop(ident, None)

    def remove_dead(self, idents: Iterable[str]) -> None:
        """Remove the files of ingresses that were found dead, as of the last listing, and tell everybody.

        What cannot be removed, or not in so short a time, is no longer listed all the same.
        """
        names = {ident: self._listed.get(ident, []) for ident in idents}
        if self._reaper.remove_ingresses(names, _REMOVE_SECONDS):
            self._announce_removal()

    def alive(self, ident: str) -> bool:
        """Return whether somebody listens on an ingress's socket. In doubt, yes: never reap the living."""
        path = self.socket_path(ident)
        before = identity(path)
        if answers(path):
            return True
        self._dead[ident] = before
        return False

    def reap(self) -> None:
        """Remove what dead processes left behind, for a moment; what is left then, the next call removes."""
        if self._reaper.reap(_REAP_SECONDS):
            self._announce_removal()

    def continue_reaping(self) -> bool:
        """Go on with what was left of cleaning up, for a moment; return whether something is left."""
        self._handle.lock()  # if a cleaner held it so far
        with suppress(Error):
            if self._reaper.unfinished and self._reaper.reap(_REMOVE_SECONDS):
                self._announce_removal()
        return self._reaper.unfinished

    def _announce_removal(self) -> None:
        """Tell everybody of what was removed, if the file system allows: who misses it just looks later."""
        with suppress(Unavailable):
            self.touch()
