"""Opening, reading and writing the files of a bus directory.

Anything may lie in the directory, by mistake or by malice. So only regular files are opened, no link is
followed, opening never blocks, and no more is read than a file of zbus may hold.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = [
    "Identity",
    "create_regular",
    "identity",
    "inode",
    "leads_to",
    "open_regular",
    "read_regular",
    "write_all",
    "write_regular",
]

_MAX_BYTES = 65_536

Identity = tuple[int, int, int]
"""Which file something is: device, inode, and when the inode changed, since numbers are used again."""


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file and nothing else; return the descriptor.

    Raises:
        OSError: it cannot be opened, or it is a link, a FIFO, a directory, or the like.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    except OSError:
        os.close(fd)
        raise
    return fd


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: see `open_regular`.
        ValueError: it holds more than any file of zbus.
    """
    fd = open_regular(path)
    try:
        # Asked first: to read even 64 KiB of a sparse giant takes memory for nothing.
        if os.fstat(fd).st_size > _MAX_BYTES:
            raise ValueError(f"{os.fspath(path)} is larger than any file of a bus")
        return os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)


def create_regular(path: str | os.PathLike[str], mode: int, flags: int = os.O_EXCL) -> int:
    """Create a file of that mode, whatever the umask; return the descriptor, for reading and writing.

    Raises:
        OSError: see `open_regular`.
    """
    fd = open_regular(path, os.O_RDWR | os.O_CREAT | flags, mode)
    try:
        os.fchmod(fd, mode)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_regular(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    """Make `data` all that a regular file holds; it is created with `mode` if there is none.

    Raises:
        OSError: see `open_regular`.
    """
    with open(create_regular(path, mode, 0), "wb") as file:
        file.write(data)
        file.truncate()


def leads_to(path: str | os.PathLike[str], fd: int) -> bool:
    """Return whether `path` still leads to the open file `fd`: nobody has removed or replaced it."""
    try:
        return inode(os.lstat(path)) == inode(os.fstat(fd))
    except OSError:
        return False


def inode(info: os.stat_result) -> tuple[int, int]:
    """Return what tells one open file from all others: its device, and its number there."""
    return info.st_dev, info.st_ino


def write_all(fd: int, data: bytes) -> None:
    """Write `data` at the beginning of a file. A limit cuts the first write short, and only the next fails.

    Raises:
        OSError: the file system, or a limit of this process, refused.
    """
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """Return which file is at `path`, or `None` if there is none."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_ctime_ns
