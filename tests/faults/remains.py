"""What must not remain when processes have come and gone: files, descriptors, threads, memory, zombies."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Holdings", "leftovers", "strangers"]

_HEADER_BYTES, _TEXT_END = 128, 65_536  # of a member file: between them is its JSON, which ends with a NUL
_PATIENCE = 10.0
_LOOK_SECONDS = 0.05
_GROWTH_KIB = 32 * 1024


class Holdings(NamedTuple):
    """What a process holds: open descriptors, threads, and memory of its own."""

    descriptors: int
    threads: int
    memory_kib: int

    @classmethod
    def of(cls, pid: int) -> Holdings:
        """Look at a process."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), int(status["RssAnon"].split()[0])
        )

    def exceeds(self, before: Holdings) -> bool:
        """Return whether this is more than before; of memory, more than allocators need to differ."""
        return (
            self.descriptors > before.descriptors
            or self.threads > before.threads
            or self.memory_kib > before.memory_kib + _GROWTH_KIB
        )

    @classmethod
    def settled(cls, pid: int, before: Holdings) -> Holdings:
        """Look until a process holds no more than before, for a while: libzmq lets go in its own time."""
        until = time.monotonic() + _PATIENCE
        while (held := cls.of(pid)).exceeds(before) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        return held


def leftovers(roster: Path, living: set[int]) -> list[str]:
    """Return the files on the roster that belong to none of the living processes."""
    mine = {path.name.split(".")[0] for path in roster.iterdir() if _pid(path) in living}
    return sorted(
        path.name for path in roster.iterdir() if path.name != "token" and path.name.split(".")[0] not in mine
    )


def _pid(path: Path) -> int:
    """Return whose member file or entry this is; 0 if it is neither."""
    if path.suffix not in (".member", ".drop", ".block"):
        return 0
    raw = path.read_bytes()[:_TEXT_END]
    return int(
        json.loads(raw[_HEADER_BYTES:].partition(b"\0")[0] if path.suffix == ".member" else raw)["pid"]
    )


def strangers(living: set[int]) -> list[str]:
    """Return this process's children other than the living: zombies, or processes that nobody ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just gone
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            pid = int(stat.parent.name)
            if int(parent) == os.getpid() and pid not in living:
                found.append(f"process {pid}, state {state}")
    return found
