"""Errors of the operating system, libzmq and Python as errors of zbus, each with advice what to do."""

from __future__ import annotations

import errno
import os
from contextlib import ContextDecorator
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
    """Return the error for a failed operation: `what` failed, in words, and the errno `code` says why."""
    number = code or 0
    message = f"{what}: {_ADVICE.get(number) or os.strerror(number)}"
    if number in (errno.EACCES, errno.EPERM):
        return PermissionDenied(message, errno=number, **details)
    return Unavailable(message, retryable=number != errno.EROFS, errno=number, **details)


def map_os_errors(what: str) -> _Mapping:
    """Turn errors of libzmq, the operating system and Python into the `Error` that says what to do.

    A context manager or decorator for code that is to `what`, in words. It keeps no state, so it may be used
    again. `zmq.Again` passes: it means that there is nothing, or no room, now.
    """
    return _Mapping(what)


class _Mapping(ContextDecorator):
    # Not a generator, which takes 0.6 µs more of a send (measured).
    def __init__(self, what: str) -> None:
        self._what = f"cannot {what}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, type: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (Error, zmq.Again)):
            return
        if isinstance(error, MemoryError):
            raise out_of_memory(self._what) from error
        if isinstance(error, (zmq.ZMQError, OSError)):
            raise os_error(self._what, error.errno) from error


def out_of_memory(what: str) -> Unavailable:
    """Return the error for an operation that failed for want of memory; `what` failed, in words."""
    return Unavailable(
        f"{what}: this process may have no more memory: raise its limits (ulimit -v, ulimit -d), or use less",
        retryable=True,
    )
