"""File descriptors: how many there may be, and what the kernel knows of the sockets that libzmq holds.

libzmq aborts the process when it cannot accept a connection for want of one, so zbus keeps well away.
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
"""How many a context takes, an ingress, and a channel on one that is there."""

_HEADROOM = 16
_LOWEST_LIMIT = 128
# To try where the hard limit is "unlimited", which the kernel of macOS refuses: it takes as many as its
# `kern.maxfilesperproc` says, in any case as many as its OPEN_MAX.
_LIMITS = (1_048_576, 65_536, 10_240)
_SOCKET = re.compile(r"([0-9a-f]{8,32})\.(?:new|sock)")
_LISTING = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def raise_limit() -> None:
    """Raise this process's soft limit of open files to its hard limit, or as far as the kernel lets it."""
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
        Unavailable: it would; retryable once some are closed. Or the limit is too low to listen at all, since
            each publisher that connects takes one.
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
    """Refuse to open `needed` more descriptors when so many are not left.

    Raises:
        Unavailable: that is so. Retryable.
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
        if error.errno == errno.EMFILE:  # so all that there may be are open
            return [*range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
        return []  # neither listing here: the limit was raised, that has to do


def open_files() -> Iterator[tuple[int, str]]:
    """Yield each descriptor of this process and the path of what it is of, where the kernel tells."""
    for number in _descriptors():
        with suppress(OSError):
            yield number, os.readlink(f"{_LISTING}/{number}")


def unix_sockets(among: Iterable[int] | None = None) -> Iterator[tuple[int, str, str]]:
    """Yield each unix socket of this process, or `among` these descriptors.

    Yields:
        Its descriptor, its own name and its peer's, if any.
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
    """Return how many bytes the peer of a socket has not read yet; 0 if it is gone."""
    pending = array.array("i", [0])
    try:
        fcntl.ioctl(number, termios.TIOCOUTQ, pending)
    except OSError:
        return 0
    return pending[0]


def socket_id(name: str) -> str:
    """Return the id in the name of an ingress's socket, else nothing.

    The kernel tells the path by which the peer bound it, and a directory has several where a parent of it is
    a symbolic link, or is mounted twice. The id is in all of them.
    """
    match = _SOCKET.fullmatch(os.path.basename(name))
    return match[1] if match else ""


def close_connections(directory: str, idents: Collection[str]) -> None:
    """Close every unix socket whose name, or whose peer's, is of one of these ids, or is in `directory`."""
    for number, *names in unix_sockets():
        if directory in map(os.path.dirname, names) or any(socket_id(name) in idents for name in names):
            os.close(number)
