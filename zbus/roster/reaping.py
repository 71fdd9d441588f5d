"""Removing what dead processes left in a bus directory.

Each call stops after a moment, since joins and sends wait for it; the next call continues. Only files with
exactly the right name and of the right type are removed.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .file_names import is_member, is_scratch, is_socket, parse_entry
from .liveness import unlocked
from .location import file_errors

__all__ = ["Reaper", "remove"]

_SCRATCH_SECONDS = 86_400.0  # a day, because the clock that dates files may be set
# Listing a directory with that many names takes longer than anything else here. So it is listed again only
# after `_LISTING_SHARE` times as long as that took.
_MANY_NAMES = 10_000
_LISTING_SHARE = 20
# So many are done even if time is over, or a process that has to wait for a CPU would make no progress.
_LEAST = 100


def remove(*paths: Path) -> bool:
    """Remove each path that is a regular file or a socket; return whether any was removed."""
    return sum(map(_remove, paths)) > 0


def _remove(path: Path) -> bool:
    try:
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
            return False
        path.unlink()
    except OSError:
        return False
    return True


class Reaper:
    """Cleans one bus directory.

    Attributes:
        unfinished: whether something was left for the next call.
    """

    def __init__(self, path: Path, alive: Callable[[str], bool]) -> None:
        """Clean `path`; `alive` returns whether a process listens on the socket of an ingress, by its id."""
        self._path = path
        self._alive = alive
        self.unfinished = False
        self._not_before = 0.0

    def remove_ingresses(self, dead: Mapping[str, Iterable[str]], seconds: float) -> bool:
        """Remove dead ingresses, given with the names of their entries, for at most `seconds`.

        Returns:
            Whether anything was removed.
        """
        deadline = time.monotonic() + seconds
        removed = False
        for done, (ident, names) in enumerate(dead.items()):
            if done >= _LEAST and time.monotonic() >= deadline:
                self.unfinished = True
                break
            removed |= self._remove_ingress(ident, names)
        return removed

    def reap(self, seconds: float) -> bool:
        """Find what is dead and remove it, for at most `seconds`.

        Returns:
            Whether an ingress was removed.
        """
        start = time.monotonic()
        if start < self._not_before:
            return False
        with file_errors("list", self._path):
            names = os.listdir(self._path)
        if len(names) > _MANY_NAMES:
            self._not_before = time.monotonic() + _LISTING_SHARE * (time.monotonic() - start)
        entries: dict[str, list[str]] = {}
        others = []
        for name in names:
            if (entry := parse_entry(name)) is not None:
                entries.setdefault(entry.id, []).append(name)
            elif is_socket(name):
                entries.setdefault(name[:-5], [])
            elif is_member(name) or is_scratch(name):
                others.append(name)
        return self._clean([*entries.items(), *((name, None) for name in others)], start + seconds)

    def _clean(self, work: list[tuple[str, list[str] | None]], deadline: float) -> bool:
        removed = False
        # Start anywhere, so that live files at the beginning don't take up the time of every call.
        first = random.randrange(len(work)) if work else 0
        for done, (name, names) in enumerate(work[first:] + work[:first]):
            if done >= _LEAST and time.monotonic() >= deadline:
                self.unfinished = True
                return removed
            if names is None:
                self._clean_file(name)
            elif not self._alive(name):
                removed |= self._remove_ingress(name, names)
        self.unfinished = False
        return removed

    def _remove_ingress(self, ident: str, names: Iterable[str]) -> bool:
        """Remove entries, then the socket, which shows others whether it is alive."""
        paths = [*(self._path / name for name in names), self._path / f"{ident}.sock"]
        return remove(*paths)

    def _clean_file(self, name: str) -> None:
        path = self._path / name
        if unlocked(path) if is_member(name) else _old(path):
            remove(path)


def _old(path: Path) -> bool:
    """Return whether a scratch file, which normally exists for microseconds, is old."""
    try:
        return time.time() - path.lstat().st_mtime > _SCRATCH_SECONDS
    except OSError:
        return False
