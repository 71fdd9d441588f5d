"""An open bus directory: a descriptor of the directory, and its token.

A service manager, a cleaner of temporary files or a person may remove the directory or the token and create
them again. Then the path leads to another directory. A handle knows which directory it has opened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import Unavailable
from ..runtime.lifecycle import close_inherited
from .file_access import inode, leads_to
from .location import file_errors
from .permissions import (
    PRIVATE,
    Permissions,
    check_directory,
    check_parent,
    make_directory,
    permissions_below,
)
from .token import Token

__all__ = ["DirectoryHandle"]

_TRIES = 10

_open: dict[int, tuple[int, int]] = {}
"""Which directories this process has open, by descriptor."""


@close_inherited
def _close_inherited() -> None:
    """In a forked child: close the parent's directories, even one that another thread has just opened."""
    for number, which in _open.items():
        with suppress(OSError):
            if inode(os.fstat(number)) == which:
                os.close(number)
    _open.clear()


class DirectoryHandle:
    """One directory, with a shared lock on it, and the token in it.

    The lock keeps systemd-tmpfiles from removing files in the directory. An open socket would not: tmpfiles
    looks for the name with which the socket was bound.

    Attributes:
        token: see `Token`.
        permissions: of what is created in the directory.
    """

    def __init__(self, path: Path, *, default: bool = False, previous: Permissions = PRIVATE) -> None:
        """Open the directory of a bus at `path`, creating what is missing.

        Args:
            path: the directory.
            default: whether the root is this user's default, which no other user may have created.
            previous: the permissions of the directory that was at `path` before, if it was removed.

        Raises:
            PermissionDenied: this user may not use a directory on the path.
            Unavailable: the file system refused.
        """
        self._path = path
        failed = Unavailable(f"{path} is removed again and again: find out by whom", path=str(path))
        for _ in range(_TRIES):
            try:
                self.permissions = _create(path, default, previous)
                self._hold(path)
            except Unavailable as error:
                if error.details.get("errno") != errno.ENOENT:
                    raise
                failed = error
                continue  # it was removed, or replaced by one created at the same time
            if self.current():
                return
            self.close()
        raise failed

    def _hold(self, path: Path) -> None:
        with file_errors("open", path):
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _open[self._fd] = inode(os.fstat(self._fd))
            self.lock()
            self.token = Token(path / "token", self.permissions.file_mode)
        except BaseException:
            self._close()
            raise

    def lock(self) -> None:
        """Take the lock unless a cleaner holds it right now. Locking twice is fine."""
        with suppress(OSError, ValueError):  # the latter if it is closed
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def current(self) -> bool:
        """Return whether the paths still lead to this directory and this token. Takes 5 µs."""
        return leads_to(self._path, self._fd) and self.token.at(f"{self._path}/token")

    def close(self) -> None:
        """Close both; nobody may read the token any more."""
        self.token.close()
        self._close()

    def retire(self) -> None:
        """Close both descriptors; the token stays readable."""
        self.token.retire()
        self._close()

    def _close(self) -> None:
        _open.pop(self._fd, None)
        fd, self._fd = self._fd, -1  # the number may soon be another file's
        if fd >= 0:
            os.close(fd)


def _create(path: Path, default: bool, previous: Permissions) -> Permissions:
    """Create what is missing; return the permissions of what is created in the directory."""
    top = path.parent.parent
    if not os.path.lexists(top):
        check_parent(top)
    with file_errors("create", top.parent), suppress(FileExistsError):
        top.parent.mkdir(parents=True)
    permissions = _permissions_of_root(top.parent, default)
    for directory in (top, path.parent, path):
        with file_errors("create", directory):
            make_directory(directory, permissions if previous == PRIVATE else previous)
        permissions = check_directory(directory, default=default and directory == top, last=directory == path)
    return permissions


def _permissions_of_root(parent: Path, default: bool) -> Permissions:
    """Return the permissions for a root that is missing.

    A root inherits those of its parent if that is closed to other users: then it was set up for this.
    """
    permissions = permissions_below(parent)
    return PRIVATE if default or permissions.directory_mode & stat.S_IRWXO else permissions
