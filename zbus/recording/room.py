"""Room on the disk that is set aside for the end of a file."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

__all__ = ["release", "reserve"]

_KEEP_SIZE = 1  # of <linux/falloc.h>: the room lies behind the end of the file, which does not move
_FULL = errno.ENOSPC, errno.EDQUOT


def reserve(fd: int, begin: int, end: int) -> None:
    """Set the bytes from `begin` to `end` aside, without making the file longer.

    Nothing happens where that is not possible: in a pipe, or on a file system that cannot do it.

    Raises:
        OSError: the disk is full.
    """
    if (fallocate := _fallocate()) and fallocate(fd, _KEEP_SIZE, begin, end - begin) < 0:
        code = ctypes.get_errno()
        if code in _FULL:
            raise OSError(code, os.strerror(code))


def release(fd: int, size: int) -> None:
    """Give back what is set aside behind the end of a file of `size` bytes."""
    os.ftruncate(fd, size)


@cache
def _fallocate() -> Any:
    """Return the function of the C library, or `None`. The one in `os` makes the file longer."""
    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is not None:
        function.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long
    return function
