"""Opening, reading and writing the files of a bus directory.

Anything may lie in the directory, by mistake or by malice. So only regular files are opened, no link is
followed, opening never blocks, and no more is read than a file of zbus may hold.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

__all__ = [
    "ENTRY_BYTES",
    "Identity",
    "create_regular",
    "create_whole",
    "identity",
    "inode",
    "leads_to",
    "open_regular",
    "read_regular",
    "write_all",
    "write_regular",
]

ENTRY_BYTES = 65_536
"""No entry is larger, and neither is the text of a member file."""

Identity = tuple[int, int, int]
"""Identifies a file: device, inode, and when the inode changed, since inode numbers are reused."""


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


def read_regular(path: str | os.PathLike[str], largest: int = ENTRY_BYTES) -> bytes:
    """Return the content of a regular file, its first 64 KiB at most.

    Raises:
        OSError: see `open_regular`.
        ValueError: it has more than `largest` bytes, so it is no file of zbus.
    """
    fd = open_regular(path)
    try:
        # Checked first: reading 64 KiB of a huge sparse file takes memory for nothing.
        if os.fstat(fd).st_size > largest:
            raise ValueError(f"{os.fspath(path)} is larger than any file of a bus")
        return os.read(fd, ENTRY_BYTES)
    finally:
        os.close(fd)


def create_regular(path: str | os.PathLike[str], mode: int, flags: int = os.O_EXCL) -> int:
    """Create a file with exactly this mode, whatever the umask; return a descriptor to read and write it.

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


def create_whole(path: Path, data: bytes, mode: int) -> None:
    """Create a file, complete before it gets its name, unless somebody else is faster."""
    scratch = path.with_name(f"{os.urandom(8).hex()}.new")
    fd = create_regular(scratch, mode)
    try:
        write_all(fd, data)
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.close(fd)
        with suppress(OSError):
            scratch.unlink()


def write_regular(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    """Replace the content of a regular file with `data`; create it with `mode` if there is none.

    Raises:
        OSError: see `open_regular`.
    """
    with open(create_regular(path, mode, 0), "wb") as file:
        file.write(data)
        file.truncate()


def leads_to(path: str | os.PathLike[str], fd: int) -> bool:
    """Return whether `path` still leads to the open file `fd`, and was not removed or replaced."""
    try:
        return inode(os.lstat(path)) == inode(os.fstat(fd))
    except OSError:
        return False


def inode(info: os.stat_result) -> tuple[int, int]:
    """Return the device and inode of a file, which identify it while it is open."""
    return info.st_dev, info.st_ino


def write_all(fd: int, data: bytes) -> None:
    """Write `data` at the beginning of a file. At a limit the first write is cut short; only the next fails.

    Raises:
        OSError: the file system, or a limit of this process, refused.
    """
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """Return the identity of the file at `path`; `None` if there is none."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_ctime_ns
