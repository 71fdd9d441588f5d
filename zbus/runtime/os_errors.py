"""What the machine refuses, as errors of zbus: each says what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from ..errors import Error, PermissionDenied, Unavailable

__all__ = ["map_os_errors", "os_error", "out_of_memory"]

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and try again",
    errno.EDQUOT: "the disk quota is used up: free some space and try again",
    errno.EROFS: "it is on a read-only file system: set ZBUS_DIR to a writable directory",
    errno.EACCES: "permission denied: ZBUS_DIR has to name a directory that all who are to meet may"
    " write to; for several users: install -d -g GROUP -m 2770 DIRECTORY",
    errno.EMFILE: "out of file descriptors: raise the limit (ulimit -n) or close some",
    errno.ENFILE: "the machine is out of file descriptors: close some",
}


def os_error(what: str, code: int | None, **details: Any) -> Error:
    """Return the error for what the operating system refused: `what` cannot be, `code` says why."""
    number = code or 0
    message = f"{what}: {_ADVICE.get(number) or os.strerror(number)}"
    if number in (errno.EACCES, errno.EPERM):
        return PermissionDenied(message, errno=number, **details)
    return Unavailable(message, retryable=number != errno.EROFS, errno=number, **details)


@contextmanager
def map_os_errors(what: str) -> Iterator[None]:
    """Turn what the machine refuses into the `Error` that says what to do about it.

    It may say so by libzmq, the operating system or Python; `zmq.Again` is no refusal.
    """
    try:
        yield
    except (Error, zmq.Again):
        raise
    except MemoryError as error:
        raise out_of_memory(f"cannot {what}") from error
    except (zmq.ZMQError, OSError) as error:
        raise os_error(f"cannot {what}", error.errno) from error


def out_of_memory(what: str) -> Unavailable:
    """Return the error for want of memory: `what` cannot be."""
    return Unavailable(
        f"{what}: this process may have no more memory: raise its limits (ulimit -v, ulimit -d), or use less",
        retryable=True,
    )
