"""Cleaning up what dead processes left in a bus directory.

Never for more than a moment at a time, since those who join and send wait for it: what one call leaves, the
next takes up. Never anything that is not ours: it must have the exact name and be the right kind of file.
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

_SCRATCH_SECONDS = 86_400.0  # a day: files carry the time of a clock that somebody may set
# Listing a directory of so many names takes longer than anything else here; how often that is worth it.
_MANY_NAMES = 10_000
_LISTING_SHARE = 20
# Done in any case: a process that has to wait for a CPU as soon as it begins would else get nowhere.
_LEAST = 100


def remove(*paths: Path) -> bool:
    """Remove each that is ours by its kind: a regular file or a socket; say whether one is gone."""
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
        """Clean `path`; `alive` tells by its id whether somebody listens on an ingress's socket."""
        self._path = path
        self._alive = alive
        self.unfinished = False
        self._not_before = 0.0

    def remove_ingresses(self, dead: Mapping[str, Iterable[str]], seconds: float) -> bool:
        """Remove dead ingresses, given with the names of their entries, for so long at most.

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
        """Look for what is dead and remove it, for so long at most.

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
        # From anywhere, so that what is alive at the beginning does not take up the time of every call.
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
        """Remove entries, then the socket, by which others see whether it is alive."""
        paths = [*(self._path / name for name in names), self._path / f"{ident}.sock"]
        return remove(*paths)

    def _clean_file(self, name: str) -> None:
        path = self._path / name
        if unlocked(path) if is_member(name) else _old(path):
            remove(path)


def _old(path: Path) -> bool:
    """Return whether a file that is visible for microseconds has been there for long."""
    try:
        return time.time() - path.lstat().st_mtime > _SCRATCH_SECONDS
    except OSError:
        return False
