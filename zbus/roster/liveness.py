"""Which processes are alive: those that listen on a socket, or hold the lock of a member file."""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import fcntl
import os
import stat
from contextlib import closing
from pathlib import Path

from .file_access import open_regular
from .location import file_errors

__all__ = ["answers", "unlocked"]


def answers(path: Path) -> bool:
    """Return whether a process listens on the unix socket at `path`. In doubt, it does.

    Raises:
        Unavailable: out of descriptors.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False  # also for a link: sockets are bound in the directory itself
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # A datagram socket, unlike the listener: the kernel refuses the connection (EPROTOTYPE), so the peer has
    # no accept, handshake and close for each probe.
    with file_errors("probe", path), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def unlocked(path: str | os.PathLike[str]) -> bool:
    """Return whether no live process holds the lock of a member file.

    It tries to take a shared lock, so two processes that look at once do not take each other for the owner.
    """
    try:
        fd = open_regular(path)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
