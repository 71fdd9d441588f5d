"""Programs that remove old files, and whether they come by where a bus directory is."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["cleaners"]

_TMPFILES = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")
# The types of lines that clean a directory, and those that exempt one. See tmpfiles.d(5).
_CLEANING, _EXEMPT = "dDevqQC", "xX"
_CRON = ("/etc/cron.daily", "/etc/cron.hourly", "/etc/cron.d")
_CRON_CLEANERS = ("tmpreaper", "tmpwatch")
_LINGER = "/var/lib/systemd/linger"


def cleaners(
    path: Path,
    *,
    tmpfiles: Sequence[str] = _TMPFILES,
    cron: Sequence[str] = _CRON,
    linger: str = _LINGER,
) -> Iterator[tuple[str, bool]]:
    """Yield a text for each program that may remove files below `path`, and whether that does no harm.

    Args:
        path: a bus directory.
        tmpfiles, cron, linger: where systemd-tmpfiles and cron have their configuration, those that come
            first win, and where systemd notes whose processes outlive their session.
    """
    if (age := _cleaned_by_systemd(path, tmpfiles)) is not None:
        yield (
            f"systemd-tmpfiles removes what is older than {age} there, but leaves a bus alone while somebody"
            " is on it, because its directory is locked",
            True,
        )
    if path.is_relative_to("/tmp") or path.is_relative_to("/var/tmp"):
        for folder in cron:
            for name in _CRON_CLEANERS:
                if os.path.exists(os.path.join(folder, name)):
                    yield (
                        f"{name} ({folder}/{name}) removes old files there, even of a bus in use: exempt"
                        f" {path}, or set ZBUS_DIR to a directory that nobody cleans",
                        False,
                    )
    yield from _log_out(path, linger)


def _log_out(path: Path, linger: str) -> Iterator[tuple[str, bool]]:
    """Tell whether the directory goes when its user logs out."""
    parts = path.parts
    if parts[1:3] != ("run", "user") or len(parts) < 4 or not parts[3].isdigit():
        return
    with suppress(KeyError):
        user = pwd.getpwuid(int(parts[3])).pw_name
        if not os.path.exists(os.path.join(linger, user)):
            yield (
                f"/run/user/{parts[3]} is removed when {user} has logged out everywhere: for services, run"
                f" loginctl enable-linger {user}, or set ZBUS_DIR",
                False,
            )


def _cleaned_by_systemd(path: Path, folders: Sequence[str]) -> str | None:
    """Return the age at which systemd-tmpfiles removes files below `path`; `None` if it does not."""
    longest, age = 0, None
    for kind, pattern, limit in _lines(folders):
        if any(fnmatch(str(place), pattern) for place in (path, *path.parents)):
            if kind in _EXEMPT:
                return None
            if kind in _CLEANING and len(pattern) >= longest:
                longest, age = len(pattern), None if limit in ("-", "") else limit
    return age


def _lines(folders: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield type, path and age of the lines in force: of files with one name, those of the first folder."""
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(Path(folder).glob("*.conf")):
            files.setdefault(file.name, file)
    for _, file in sorted(files.items()):
        with suppress(OSError, UnicodeDecodeError):
            for line in file.read_text().splitlines():
                words = line.split()
                if len(words) >= 2 and not line.startswith("#"):
                    yield words[0][:1], words[1], words[5] if len(words) > 5 else "-"
