"""Whether a bus is healthy: what `zbus doctor` looks at, and the figures that `zbus check` compares."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import orjson
import zmq

import zbus

from ..roster.bus_id import BUS_ID
from ..roster.file_names import is_member, is_scratch, is_socket, parse_entry
from ..roster.permissions import permissions_below
from ..roster.process_info import visible
from ..runtime.process_state import process_state
from .cleaners import cleaners
from .loopback import loopback
from .places import chosen_by

__all__ = ["ERROR", "LEVELS", "OK", "WARNING", "Figures", "Finding", "checkup", "figures", "reap"]

OK, WARNING, ERROR = LEVELS = ("ok", "warning", "error")

_FREE_BYTES, _FREE_FILES = 16 * 2**20, 1000
_NAMED = 5
# File systems that other machines share: a token that is mapped there does not show what they write.
_SHARED = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs")
_FEW_FILES = 1024
_MOST_USED = 0.8


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: its name.
        level: `OK`, `WARNING` or `ERROR`.
        text: what was found and, unless all is well, what to do.
    """

    check: str
    level: str
    text: str


class Figures(NamedTuple):
    """A bus in four numbers.

    Attributes:
        members: how many members are alive.
        subscribers: how many subscribers are alive.
        lost: events that the members that are alive have lost so far.
        lag: how long the oldest unread event of all channels has waited, in seconds.
    """

    members: int
    subscribers: int
    lost: int
    lag: float


def figures(peers: zbus.Peers) -> Figures:
    """Return the numbers of a bus, from what its members publish."""
    members = [peer for peer in peers if peer.role == "member" and peer.alive]
    channels = [row for peer in members if peer.numbers is not None for row in peer.numbers.by_channel]
    return Figures(
        members=len(members),
        subscribers=sum(peer.role == "subscriber" and peer.alive for peer in peers),
        lost=sum(peer.counters.get("lost", 0) for peer in members),
        lag=max((row.unread for row in channels if row.unread is not None), default=0.0),
    )


def checkup(
    bus: str | None = None, *, dir: str | PathLike[str] | None = None, given: bool = False
) -> Iterator[Finding]:
    """Yield what the checks find, one after the other.

    Only the last check joins a bus: one of its own below the same root, which nobody else is on.

    Args:
        bus, dir: as for `zbus.peers`.
        given: whether `--dir` named the root.

    Raises:
        TypeError, Invalid: as for `zbus.peers`.
    """
    yield from _versions()
    yield from _own_limits()
    try:
        found = zbus.peers(bus, dir=dir)
    except (zbus.PermissionDenied, zbus.Unavailable) as error:
        yield Finding("directory", ERROR, error.message)
        return
    yield _directory(found, given=given)
    yield from _file_system(found.path)
    yield from _cleaners(found.path)
    yield from _files(found.path)
    yield from _processes(found)
    yield from _losses(found)
    yield _loopback(found.path.parents[1])


def reap(bus: str | None = None, *, dir: str | PathLike[str] | None = None) -> int:
    """Have what dead processes left on a bus removed; return how many of their roles are gone.

    Raises:
        As `zbus.Bus`.
    """
    before = left = _dead(bus, dir)
    while left:
        with zbus.Bus(bus, dir=dir):
            pass
        still = _dead(bus, dir)
        if still >= left:
            break
        left = still
    return before - left


def _dead(bus: str | None, dir: str | PathLike[str] | None) -> int:
    return sum(not peer.alive for peer in zbus.peers(bus, dir=dir))


def _versions() -> Iterator[Finding]:
    parts = {
        "zbus": zbus.__version__,
        "Python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "orjson": orjson.__version__,
        platform.system(): platform.release(),
    }
    yield Finding("versions", OK, ", ".join(f"{name} {version}" for name, version in parts.items()))


def _own_limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = inf if hard == resource.RLIM_INFINITY else hard
    if most < _FEW_FILES:
        text = (
            f"a process may open {most} files at most, and each connection takes one: raise it (ulimit -Hn)"
        )
        yield Finding("descriptors", WARNING, text)
    else:
        yield Finding(
            "descriptors", OK, f"a process may open {most} files; {soft} until zbus raises its limit"
        )


def _directory(found: zbus.Peers, *, given: bool) -> Finding:
    said = f"{found.path}{chosen_by(found.path.parents[1], given=given)}"
    if not found.path.exists():
        return Finding("directory", OK, f"{said} does not exist: nobody has opened this bus yet")
    group = permissions_below(found.path).group
    used = "for its owner alone" if group is None else f"for group {group}"
    return Finding("directory", OK, f"{said}, {used}")


def _file_system(path: Path) -> Iterator[Finding]:
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    kind = _file_system_type(there)
    if kind.startswith(_SHARED):
        yield Finding(
            "file system",
            ERROR,
            f"{there} is on {kind}, where other machines may write: set ZBUS_DIR to a local directory",
        )
        return
    with suppress(OSError):
        room = os.statvfs(there)
        free = room.f_bavail * room.f_frsize
        if free < _FREE_BYTES or (room.f_files and room.f_favail < _FREE_FILES):
            text = f"{there} has room for {free // 2**20} MiB and {room.f_favail} files: free some"
            yield Finding("file system", ERROR if free < 2**20 else WARNING, text)
            return
    yield Finding("file system", OK, f"{there} is on {kind or 'a local file system'} and has room")


def _file_system_type(path: Path) -> str:
    """Return the type of the file system that holds `path`, empty where the kernel does not tell."""
    best, kind = "", ""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, name, *_ = line.split()
            if os.path.realpath(path).startswith(point) and len(point) >= len(best):
                best, kind = point, name
    return kind


def _cleaners(path: Path) -> Iterator[Finding]:
    found = [*cleaners(path)]
    for text, harmless in found:
        yield Finding("cleaners", OK if harmless else WARNING, text)
    if not found:
        yield Finding("cleaners", OK, "no program is known to remove old files there")


def _files(path: Path) -> Iterator[Finding]:
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(path)
    strange = sorted(name for name in names if not _is_ours(name))
    if strange:
        more = ", …" if len(strange) > _NAMED else ""
        named = visible(", ".join(strange[:_NAMED])) + more
        text = f"{len(strange)} files are not of a bus, and nobody removes them: {named}"
        yield Finding("files", WARNING, text)
    else:
        yield Finding("files", OK, f"{len(names)} files, all of this bus")


def _is_ours(name: str) -> bool:
    known = is_socket(name) or is_member(name) or is_scratch(name) or parse_entry(name) is not None
    return known or name in ("token", BUS_ID)


def _processes(found: zbus.Peers) -> Iterator[Finding]:
    dead = [peer for peer in found if not peer.alive]
    if dead:
        text = (
            f"{_who(dead)} ended without closing: run zbus doctor --fix, or leave it to the next that joins"
        )
        yield Finding("stale", WARNING, text)
    else:
        yield Finding("stale", OK, "nothing is left of dead processes")
    members = [peer for peer in found if peer.role == "member" and peer.alive]
    states = [(peer, process_state(peer.pid)) for peer in members if peer.pid]
    if stopped := [peer for peer, state in states if state is not None and state.stopped]:
        text = f"{_who(stopped)} is stopped, and receives nothing until it goes on: kill -CONT PID"
        yield Finding("stopped", WARNING, text)
    if full := [peer for peer in members if _share_of_files(peer.pid) > _MOST_USED]:
        text = f"{_who(full)} has nearly as many files open as it may: raise its limit (ulimit -n)"
        yield Finding("descriptors", WARNING, text)
    languages = sorted({peer.language for peer in members if peer.language != "?"})
    text = f"{len(members)} members" + (f", in {', '.join(map(visible, languages))}" if languages else "")
    yield Finding("members", OK, text)


def _share_of_files(pid: int) -> float:
    """Return how much of its limit of open files a process uses, 0 where the kernel does not tell."""
    with suppress(OSError, ValueError):
        limits = Path(f"/proc/{pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        return len(os.listdir(f"/proc/{pid}/fd")) / int(line.split()[3])
    return 0.0


def _losses(found: zbus.Peers) -> Iterator[Finding]:
    losing = [peer for peer in found if peer.role == "member" and peer.alive and peer.counters.get("lost")]
    if losing:
        lost = sum(peer.counters["lost"] for peer in losing)
        text = f"{_who(losing)} has lost {lost:,} events so far: see docs/howto/slow-subscribers.md"
        yield Finding("losses", WARNING, text)
    else:
        yield Finding("losses", OK, "no member has lost an event")


def _who(peers: list[zbus.Peer]) -> str:
    each = dict.fromkeys(f"{visible(peer.process)} ({peer.pid or '?'})" for peer in peers)
    more = f" and {len(each) - _NAMED} more" if len(each) > _NAMED else ""
    return ", ".join([*each][:_NAMED]) + more


def _loopback(root: Path) -> Finding:
    try:
        median, worst = loopback(root)
    except zbus.Error as error:
        return Finding("loopback", ERROR, f"an event did not get through: {error.message}")
    text = f"an event takes {median * 1000:.2f} ms from send to receive, {worst * 1000:.2f} ms at worst"
    return Finding("loopback", OK, text)
