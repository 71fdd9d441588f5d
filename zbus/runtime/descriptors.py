"""File descriptors: the limit of their number, and what the kernel knows of libzmq's sockets.

libzmq aborts the process if it has no descriptor left to accept a connection, so zbus keeps well below the
limit.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import array
import errno
import fcntl
import os
import re
import resource
import stat
import termios
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from math import inf

from ..errors import Unavailable

__all__ = [
    "CHANNEL",
    "CONTEXT",
    "INGRESS",
    "check_descriptors",
    "check_headroom",
    "close_connections",
    "open_files",
    "raise_limit",
    "socket_id",
    "unix_sockets",
    "unread_bytes",
]

CONTEXT, INGRESS, CHANNEL = 8, 13, 4
"""How many descriptors a context takes, an ingress, and one more channel on an ingress."""

_HEADROOM = 16
_LOWEST_LIMIT = 128
# Tried where the hard limit is "unlimited". The kernel of macOS refuses that: it allows as many as
# `kern.maxfilesperproc`, and at least OPEN_MAX.
_LIMITS = (1_048_576, 65_536, 10_240)
_SOCKET = re.compile(r"([0-9a-f]{8,32})\.(?:new|sock)")
_LISTING = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def raise_limit() -> None:
    """Raise this process's soft limit of open files to the hard limit, or as far as the kernel allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, *_LIMITS):
        if _number(limit) <= _number(soft):
            return
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def _number(limit: int) -> float:
    return inf if limit == resource.RLIM_INFINITY else limit


def check_headroom(needed: int) -> None:
    """Refuse to open `needed` more descriptors when that comes close to the limit.

    Raises:
        Unavailable: it does; retryable once some are closed. Or the limit is too low to subscribe at all,
            since each publisher that connects takes one.
    """
    limit = _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if limit < _LOWEST_LIMIT:
        raise Unavailable(
            f"{limit} file descriptors are too few to subscribe, since each publisher takes one: raise the"
            f" limit to {_LOWEST_LIMIT} at least (ulimit -n)",
            limit=limit,
        )
    check_descriptors(needed + _HEADROOM)


def check_descriptors(needed: int) -> None:
    """Refuse to open `needed` more descriptors when fewer are left.

    Raises:
        Unavailable: fewer are left. Retryable.
    """
    limit = _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    used = len(_descriptors())
    if used + needed > limit:
        raise Unavailable(
            f"{used} of {limit} file descriptors are in use, too many to use a bus: raise the limit"
            " (ulimit -n) or close some",
            retryable=True,
            used=used,
            limit=limit,
        )


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_LISTING)]
    except OSError as error:
        if error.errno == errno.EMFILE:  # so as many are open as the limit allows
            return [*range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
        return []  # no listing on this system: the raised limit has to do


def open_files() -> Iterator[tuple[int, str]]:
    """Yield each descriptor of this process and the path of its file, where the kernel tells."""
    for number in _descriptors():
        with suppress(OSError):
            yield number, os.readlink(f"{_LISTING}/{number}")


def unix_sockets(among: Iterable[int] | None = None) -> Iterator[tuple[int, str, str]]:
    """Yield the unix sockets of this process, or those `among` these descriptors.

    Yields:
        The descriptor, the socket's name and its peer's name; a name may be empty.
    """
    for number in _descriptors() if among is None else among:
        with suppress(OSError):  # closed meanwhile, by libzmq
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            held = socket.socket(fileno=number)
            try:
                if held.family == socket.AF_UNIX:
                    yield number, _name(held.getsockname), _name(held.getpeername)
            finally:
                held.detach()


def _name(ask: Callable[[], object]) -> str:
    try:
        name = ask()
    except OSError:  # not connected
        return ""
    return name if isinstance(name, str) else ""  # an abstract name is bytes


def unread_bytes(number: int) -> int:
    """Return how many bytes the peer of a socket has not read yet; 0 if the socket is gone."""
    pending = array.array("i", [0])
    try:
        fcntl.ioctl(number, termios.TIOCOUTQ, pending)
    except OSError:
        return 0
    return pending[0]


def socket_id(name: str) -> str:
    """Return the id in the name of an ingress's socket, or an empty text for other names.

    The kernel tells the path by which the peer bound the socket. A directory has several paths if a parent of
    it is a symbolic link or mounted twice; the id is in all of them.
    """
    match = _SOCKET.fullmatch(os.path.basename(name))
    return match[1] if match else ""


def close_connections(directory: str, idents: Collection[str]) -> None:
    """Close each unix socket whose name, or whose peer's name, has one of these ids or is in `directory`."""
    for number, *names in unix_sockets():
        if directory in map(os.path.dirname, names) or any(socket_id(name) in idents for name in names):
            os.close(number)
