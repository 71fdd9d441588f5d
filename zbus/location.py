"""Where a bus is: its directory, below the one root of this user, and what to say when that will not do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Invalid, PermissionDenied, Unavailable
from .patterns import plain

__all__ = ["SUN_PATH_BYTES", "bus_name", "check_private", "default_root", "file_errors", "locate"]

VERSION = "v1"
SUN_PATH_BYTES = 107
_LONGEST_NAME = f"{'0' * 16}.sock"
_BUS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def default_root() -> Path:
    """Return the directory that holds all buses of this user.

    `$ZBUS_DIR`, else `$XDG_RUNTIME_DIR/zbus`, else `zbus-<uid>` in `$TMPDIR` or `/tmp`. Nothing else
    counts: `tempfile.gettempdir()`, for one, is somewhere else when `/tmp` is full, or `TMP` is set.
    """
    if chosen := os.environ.get("ZBUS_DIR"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "zbus"
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"zbus-{os.geteuid()}"


def bus_name(name: str | None) -> str:
    """Return `name`; without one that of the default bus, `$ZBUS_BUS` or else `default`."""
    text: str = plain(os.environ.get("ZBUS_BUS") or "default" if name is None else name)
    return text


@contextmanager
def file_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into the `Error` that says what to do about it."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        advice = {
            errno.ENOSPC: "the disk is full: free some space and try again",
            errno.EDQUOT: "the disk quota is used up: free some space and try again",
            errno.EROFS: "it is on a read-only file system: set ZBUS_DIR to a writable directory",
            errno.EACCES: "permission denied: set ZBUS_DIR to a directory of your own",
            errno.EMFILE: "out of file descriptors: raise the limit (ulimit -n) or close some",
            errno.ENFILE: "the machine is out of file descriptors: close some",
        }.get(code, os.strerror(code))
        message = f"cannot {what} {path}: {advice}"
        raise Unavailable(message, retryable=code != errno.EROFS, path=str(path), errno=code) from error


def check_private(path: Path) -> None:
    """Refuse a directory that somebody else could have prepared or can write to."""
    with file_errors("use", path):
        info = path.lstat()
    if path.is_symlink():
        raise PermissionDenied(f"{path} is a symbolic link: name the directory itself", path=str(path))
    if not path.is_dir():
        raise PermissionDenied(f"{path} is not a directory: remove it or set ZBUS_DIR", path=str(path))
    if info.st_uid != os.geteuid():
        raise PermissionDenied(
            f"{path} belongs to user {info.st_uid}, not to you: set ZBUS_DIR to a directory of your own",
            path=str(path),
        )
    if info.st_mode & 0o002:
        raise PermissionDenied(
            f"{path} is writable by everybody: chmod o-w it, or set ZBUS_DIR to a private directory",
            path=str(path),
        )


def locate(root: str | os.PathLike[str] | None, bus: str) -> Path:
    """Return the directory of `bus` under `root`, whether it exists or not.

    Raises:
        TypeError: `bus` is not a `str`.
        Invalid: not a bus name, or the socket paths would be longer than the kernel takes.
    """
    bus = plain(bus)
    if type(bus) is not str:
        raise TypeError(f"the bus name must be a str, not {type(bus).__name__}")
    if not _BUS.fullmatch(bus):
        raise Invalid(f"{bus!r} is not a bus name: use letters, digits, '_', '-', '.', at most 64", value=bus)
    path = Path(os.path.abspath(plain(root) if root is not None else default_root())) / VERSION / bus
    length = len(os.fsencode(path / _LONGEST_NAME))
    if length > SUN_PATH_BYTES:
        raise Invalid(
            f"{path} is too long: its sockets would have {length} bytes of at most {SUN_PATH_BYTES}; shorten"
            " ZBUS_DIR (or dir=), or the bus name",
            path=str(path),
        )
    return path
