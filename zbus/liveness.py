"""Liveness: who answers on a socket, or holds the lock of a file, is there. Nothing else tells."""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import fcntl
import os
from contextlib import closing
from pathlib import Path

from .location import file_errors

__all__ = ["answers", "unlocked"]


def answers(path: Path) -> bool:
    """Return whether somebody listens on the unix socket at `path`. In doubt, yes."""
    with file_errors("probe", path), closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # for example EAGAIN: its backlog is full, so it lives
    return True


def unlocked(path: Path) -> bool:
    """Return whether no living process holds the lock of a member file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
