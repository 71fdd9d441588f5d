"""Who is on a bus, for people and tools. Looking changes nothing, and no process on the bus notices."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .file_access import read_regular
from .file_names import Entry, entries_by_id, is_member, newest
from .liveness import answers, unlocked
from .location import bus_name, chosen_root, file_errors, locate
from .members import Member
from .numbers import MEMBER_BYTES, Numbers, read_numbers
from .permissions import check_directory
from .process_info import Pattern, read_process_info

__all__ = ["Peer", "Peers", "peers"]

# How often the directory is listed again at most, because it changed meanwhile.
_TRIES = 5


class Peer(NamedTuple):
    """One role of a process on a bus, as `peers` returns it.

    Attributes:
        process: name of the program, `?` if unknown.
        pid: its process id, as the process itself sees it; 0 if unknown.
        language: of the program, for example `python`.
        role: `"member"` (it has opened the bus) or `"subscriber"` (it listens: one for each ingress, two if
            that has both `drop` and `latest` channels).
        overflow: `"drop"`, `"block"` or `"latest"` of a subscriber, else empty.
        patterns: the `(system, kind)` patterns of a subscriber with that overflow, at most 100.
        alive: whether the process is alive. The next process that joins removes dead ones.
        counters: events and timeouts that a member has counted so far, by name.
        id: of a member, or of a subscriber's ingress. Errors and warnings name subscribers by this id.
        user: who runs the process: the owner of its file, as a name, or as a number if there is no name.
        origins: those of the events that a member sends, the latest last. Compare `Event.origin`.
        member: the id of the process's member; empty if unknown.
        numbers: what a member has sent and received so far; `None` if it does not tell.
    """

    process: str
    pid: int
    language: str
    role: str
    overflow: str
    patterns: list[tuple[str, str]]
    alive: bool
    counters: dict[str, int]
    id: str
    user: str
    origins: list[str]
    member: str
    numbers: Numbers | None = None


class Peers(list[Peer]):
    """Who is on a bus.

    Attributes:
        path: the bus directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


def peers(bus: str | None = None, *, dir: str | os.PathLike[str] | None = None) -> Peers:
    """Return who is on a bus, without joining it and without changing anything.

        for peer in zbus.peers("shop"):
            print(peer.process, peer.pid, peer.role, peer.patterns)

    Args:
        bus: the name of the bus; if `None`, `$ZBUS_BUS`, else `default`.
        dir: the root directory of all buses; if `None`, `$ZBUS_DIR`, else a directory of this user.

    Returns:
        A list, sorted by process id, whose `path` is the bus directory. It is empty if nobody is on the bus.

    Raises:
        TypeError, Invalid, PermissionDenied, Unavailable: as for `Bus`, but root may look at any bus.
    """
    found = Peers(locate(dir, bus_name(bus)))
    if _exists(found.path, chosen_root(dir) is None):
        found += sorted(
            _list(found.path), key=lambda peer: (peer.pid, peer.role, peer.overflow, peer.patterns, peer.id)
        )
    return found


def _exists(path: Path, default: bool) -> bool:
    """Return whether the directory of a bus exists. Refuse one that `Bus` refuses, except for root."""
    top = path.parent.parent
    for directory in (top, path.parent, path):
        with file_errors("look into", directory):
            try:
                os.lstat(directory)
            except FileNotFoundError:
                return False
        check_directory(directory, default=default and directory == top, last=directory == path, look=True)
    return True


def _list(path: Path) -> list[Peer]:
    """Read all files, and again if the token has changed: a listing can miss a file that is replaced."""
    found: list[Peer] = []
    for _ in range(_TRIES):
        token = _token(path)
        with file_errors("list", path):
            names = os.listdir(path)
        found = [*_members(path, names), *_subscribers(path, names)]
        if _token(path) == token:
            break
    return found


def _token(path: Path) -> bytes:
    with suppress(OSError, ValueError):
        return read_regular(path / "token")
    return b""


def _members(path: Path, names: list[str]) -> Iterator[Peer]:
    for name in filter(is_member, names):
        with suppress(OSError):  # gone meanwhile
            file, ident = path / name, name.partition(".")[0]
            if not stat.S_ISREG(os.lstat(file).st_mode):
                continue
            it = read_process_info(file, Member.HEADER_BYTES, MEMBER_BYTES)
            counts = memoryview(it.head[: len(it.head) // 8 * 8]).cast("Q")
            counters = dict(zip(Member.COUNTERS, counts, strict=False))
            yield Peer(
                process=it.process,
                pid=it.pid,
                language=it.language,
                role="member",
                overflow="",
                patterns=[],
                alive=not unlocked(file),
                counters=counters,
                id=ident,
                user=it.user,
                origins=it.origins,
                member=ident,
                numbers=read_numbers(file),
            )


def _subscribers(path: Path, names: list[str]) -> Iterator[Peer]:
    for entry in map(newest, entries_by_id(names).values()):
        with suppress(OSError):  # gone meanwhile
            it = read_process_info(path / entry.name)
            alive = answers(path / f"{entry.id}.sock")
            for overflow, patterns in _by_overflow(entry, it.patterns).items():
                yield Peer(
                    process=it.process,
                    pid=it.pid,
                    language=it.language,
                    role="subscriber",
                    overflow=overflow,
                    patterns=patterns,
                    alive=alive,
                    counters={},
                    id=entry.id,
                    user=it.user,
                    origins=[],
                    member=it.member,
                )


def _by_overflow(entry: Entry, patterns: list[Pattern]) -> dict[str, list[tuple[str, str]]]:
    """Group the patterns of an ingress by overflow; for those without, it is in the name of the entry."""
    found: dict[str, list[tuple[str, str]]] = {}
    for system, kind, overflow in patterns:
        found.setdefault(overflow or entry.overflow, []).append((system, kind))
    return found or {entry.overflow: []}
