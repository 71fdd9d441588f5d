"""File descriptors: libzmq aborts the process when it cannot accept one, so zbus keeps well away."""

from __future__ import annotations

import os
import resource

from .errors import Unavailable

__all__ = ["check_headroom", "raise_limit"]

_HEADROOM = 16


def raise_limit() -> None:
    """Raise this process's soft limit of open files to its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_headroom(needed: int) -> None:
    """Refuse to open `needed` more descriptors when that comes close to the limit.

    Raises:
        Unavailable: it would; retryable once some are closed.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:  # no /proc here: the limit was raised, that has to do
        return
    if used + needed + _HEADROOM > limit:
        raise Unavailable(
            f"{used} of {limit} file descriptors are in use, too many to join a bus: raise the limit"
            " (ulimit -n) or close some",
            retryable=True,
            used=used,
            limit=limit,
        )
