"""The files of a bus directory: what their names mean, how they are opened, who is alive.

Anything may lie in the directory, by mistake or by malice. So only what has exactly one of the names below
is looked at, only regular files are opened, none is waited for, no link is followed, and no more is read than
a file of zbus may hold.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import errno
import fcntl
import os
import re
import stat
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from .location import file_errors

__all__ = [
    "Entry",
    "Identity",
    "answers",
    "create_regular",
    "identity",
    "is_entry",
    "is_member",
    "is_scratch",
    "is_socket",
    "open_regular",
    "parse_entry",
    "read_regular",
    "unlocked",
    "write_all",
    "write_regular",
]

_ENTRY = re.compile(r"([0-9a-f]{8,32})\.([1-9][0-9]{0,17})\.(drop|block)")
_OTHER = re.compile(r"[0-9a-f]{8,32}\.(?:sock|member|new)")
# Comparing ends is five times as fast as an expression, and tells apart what is foreign: there may be much.
_ENTRY_ENDS = (".drop", ".block")
_MAX_BYTES = 65_536

Identity = tuple[int, int, int]
"""Which file something is: device, inode, and when the inode changed, since numbers are used again."""


class Entry(NamedTuple):
    """One listening ingress: its id, subscription epoch, and overflow policy (`drop` or `block`)."""

    id: str
    epoch: int
    overflow: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.id}.{self.epoch}.{self.overflow}"


def is_entry(name: str) -> bool:
    """Return whether a file is named like an entry."""
    return name.endswith(_ENTRY_ENDS) and _ENTRY.fullmatch(name) is not None


def parse_entry(name: str) -> Entry | None:
    """Return the entry that a file's name tells of, if it is one."""
    if name.endswith(_ENTRY_ENDS) and (match := _ENTRY.fullmatch(name)) is not None:
        return Entry(match[1], int(match[2]), match[3])
    return None


def is_socket(name: str) -> bool:
    """Return whether a file is named like the socket of an ingress."""
    return name.endswith(".sock") and _OTHER.fullmatch(name) is not None


def is_member(name: str) -> bool:
    """Return whether a file is named like that of a member."""
    return name.endswith(".member") and _OTHER.fullmatch(name) is not None


def is_scratch(name: str) -> bool:
    """Return whether a file is named like one that is about to get another name."""
    return name.endswith(".new") and _OTHER.fullmatch(name) is not None


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


def answers(path: Path) -> bool:
    """Return whether somebody listens on the unix socket at `path`. In doubt, yes: the living stay.

    Raises:
        Unavailable: out of descriptors.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False  # a link too: a socket is bound in the directory itself
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # Of another type than what listens there, so the kernel says no (EPROTOTYPE) and the peer is spared an
    # accept, a handshake and a close for each time that somebody asks.
    with file_errors("probe", path), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def unlocked(path: str | os.PathLike[str]) -> bool:
    """Return whether no living process holds the lock of a member file.

    By a shared lock: two who look at once do not take each other for the owner.
    """
    try:
        fd = open_regular(path)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
