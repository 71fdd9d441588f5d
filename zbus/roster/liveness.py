"""Who is alive: whether somebody listens on a socket, or holds the lock of a member file."""

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
    """Return whether somebody listens on the unix socket at `path`. In doubt, yes: the living stay.

    Raises:
        Unavailable: out of descriptors.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False  # a link too: a socket is bound in the directory itself
    except FileNotFoundError:
        return False
    except OSError:
        return True
    # Of another type than what listens there, so the kernel says no (EPROTOTYPE) and the peer is spared an
    # accept, a handshake and a close for each time that somebody asks.
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
    """Return whether no living process holds the lock of a member file.

    By a shared lock: two who look at once do not take each other for the owner.
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
