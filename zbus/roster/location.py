"""Where the directory of a bus is: `<root>/v1/<bus>`, with one root for all buses of a user."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Error, Invalid, Unavailable, printable
from ..protocol.patterns import plain
from ..runtime.os_errors import os_error
from ..runtime.reports import report

__all__ = ["SUN_PATH_BYTES", "VERSION", "bus_name", "chosen_root", "default_root", "file_errors", "locate"]

VERSION = "v1"
# Linux takes more than the BSDs and macOS.
SUN_PATH_BYTES = 107 if sys.platform == "linux" else 103
_LONGEST_NAME = f"{'0' * 16}.sock"
_BUS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


_reported: set[str] = set()


def chosen_root(root: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Return the root that was chosen, by `root` or `$ZBUS_DIR`; `None` if it is the user's default."""
    return (os.environ.get("ZBUS_DIR") or None) if root is None else root


def default_root() -> Path:
    """Return the directory that holds all buses of this user.

    That is `$ZBUS_DIR`, else `$XDG_RUNTIME_DIR/zbus`, else `zbus-<uid>` in `$TMPDIR` or `/tmp`. Not
    `tempfile.gettempdir()`, which is another directory when `/tmp` is full or `TMP` is set.

    An `$XDG_RUNTIME_DIR` of another user, which `sudo -E` and `su` keep, is ignored: its owner could not use
    a directory that root creates there.
    """
    if chosen := chosen_root(None):
        return Path(chosen)
    temporary = Path(os.environ.get("TMPDIR") or "/tmp") / f"zbus-{os.geteuid()}"
    if not (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        return temporary
    if (owner := _other_owner(runtime)) is None:
        return Path(runtime) / "zbus"
    if runtime not in _reported:
        _reported.add(runtime)
        report(
            "XDG_RUNTIME_DIR=%s belongs to user %s, and this process is of user %d: its buses are in %s."
            " To share one, set ZBUS_DIR for both to a directory that is prepared for a group",
            *(printable(runtime), owner, os.geteuid(), printable(str(temporary))),
        )
    return temporary


def _other_owner(directory: str) -> int | None:
    """Return the owner of a directory that exists and belongs to another user; otherwise `None`."""
    try:
        owner = os.stat(directory).st_uid
    except OSError:
        return None
    return None if owner == os.geteuid() else owner


def bus_name(name: str | None) -> str:
    """Return `name`, or the name of the default bus if it is `None`: `$ZBUS_BUS`, else `default`."""
    text: str = plain(os.environ.get("ZBUS_BUS") or "default" if name is None else name)
    return text


@contextmanager
def file_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into the `Error` that says what to do about it."""
    try:
        yield
    except Error:  # some of them are an OSError as well
        raise
    except OSError as error:
        raise os_error(f"cannot {what} {path}", error.errno, path=str(path)) from error


def locate(root: str | os.PathLike[str] | None, bus: str) -> Path:
    """Return the directory of `bus` under `root`, whether it exists or not.

    Raises:
        TypeError: `bus` is not a `str`, or `root` not a path of `str`.
        Invalid: not a bus name, not a path, or the paths of sockets would be too long for the kernel.
        Unavailable: `root` is relative, and the working directory is gone.
    """
    bus = plain(bus)
    if type(bus) is not str:
        raise TypeError(f"the bus name must be a str, not {type(bus).__name__}")
    if not _BUS.fullmatch(bus):
        raise Invalid(f"{bus!r} is not a bus name: use letters, digits, '_', '-', '.', at most 64", value=bus)
    path = Path(_absolute(default_root() if root is None else root)) / VERSION / bus
    length = len(os.fsencode(path / _LONGEST_NAME))
    if length > SUN_PATH_BYTES:
        raise Invalid(
            f"{path} is too long: its sockets would have {length} bytes of at most {SUN_PATH_BYTES}; shorten"
            " ZBUS_DIR (or dir=), or the bus name",
            path=str(path),
        )
    return path


def _absolute(root: str | os.PathLike[str]) -> str:
    path = plain(os.fspath(root) if isinstance(root, os.PathLike) else root)
    if type(path) is not str:
        raise TypeError(f"the directory must be a str or a path of str, not {type(path).__name__}")
    if not path:
        raise Invalid("the directory is empty text: name one, or leave it out", value=path)
    if "\0" in path:
        raise Invalid(f"the directory {path!r} contains NUL, which no path may", value=path)
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise Invalid(f"the directory {path!r} cannot be the name of a file", value=path) from error
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise Unavailable(
            f"the directory {path} is relative to the working directory, which is gone: use an absolute path",
            path=path,
        ) from error
