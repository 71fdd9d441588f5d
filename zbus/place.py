"""The place of a bus: its directory and its token as they are at one time.

Others may remove either, and make it anew: a service manager, a cleaner of temporary files, somebody at a
shell. Then the path leads somewhere else. So a place remembers which directory and which file it is.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from .errors import Unavailable
from .location import check_private, file_errors
from .token import Token

__all__ = ["Place", "close_inherited"]

_TRIES = 10

_open: dict[int, tuple[int, int]] = {}
"""The descriptors of directories that this process holds, and which they are."""


def close_inherited() -> None:
    """In a forked child: close the parent's directories, also one that another thread had just opened."""
    for number, which in _open.items():
        with suppress(OSError):
            info = os.fstat(number)
            if (info.st_dev, info.st_ino) == which:
                os.close(number)
    _open.clear()


class Place:
    """One directory, held by a shared lock, and the token in it.

    The lock makes systemd-tmpfiles spare all that is in the directory. That a socket is in use does not: it
    looks for the name that the socket was bound with.

    Attributes:
        token: see `Token`.
    """

    def __init__(self, path: Path) -> None:
        """Open the directory of a bus at `path`, creating what is missing.

        Raises:
            PermissionDenied: a directory on the way is not private.
            Unavailable: the file system refused.
        """
        self._path = path
        for _ in range(_TRIES):
            _create(path)
            with file_errors("open", path):
                self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                info = os.fstat(self._fd)
                _open[self._fd] = info.st_dev, info.st_ino
                self.lock()
                self.token = Token(path / "token")
            except BaseException:
                self._close()
                raise
            if self.current():
                return
            self.close()  # somebody removed it just now
        raise Unavailable(f"{path} is removed again and again: find out by whom", path=str(path))

    def lock(self) -> None:
        """Take the lock, unless a cleaner is at work right now; twice is fine."""
        with suppress(OSError, ValueError):  # the latter if it is closed
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def current(self) -> bool:
        """Return whether the paths still lead to this directory and this token. Takes 5 us."""
        try:
            there, here = os.lstat(self._path), os.fstat(self._fd)
            token = os.lstat(f"{self._path}/token")
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and (
            token.st_dev,
            token.st_ino,
        ) == self.token.identity

    def close(self) -> None:
        """Let go of both: nobody may read the token any more."""
        self.token.close()
        self._close()

    def retire(self) -> None:
        """Let go of both; who still reads the token may go on."""
        self.token.retire()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1  # the number may soon be another file's
        if fd >= 0:
            _open.pop(fd, None)
            os.close(fd)


def _create(path: Path) -> None:
    top = path.parent.parent
    with file_errors("create", top.parent), suppress(FileExistsError):
        top.parent.mkdir(parents=True)
    for directory in (top, path.parent, path):
        with file_errors("create", directory), suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        check_private(directory)
