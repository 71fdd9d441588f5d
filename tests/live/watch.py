"""What the kernel sees happen in a directory, in its order, whichever calls and processes do it."""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType

__all__ = ["Watch"]

_MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x80, 0x100, 0x200
_NAMES = {_MODIFY: "write", _MOVED_TO: "rename", _CREATE: "create", _DELETE: "delete"}
_HEAD = struct.Struct("iIII")


class Watch:
    """An inotify instance on one directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _MODIFY | _MOVED_TO | _CREATE | _DELETE
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def seen(self) -> list[tuple[str, str]]:
        """Return what happened since the last call, as (what, to which name)."""
        found: list[tuple[str, str]] = []
        while True:
            try:
                raw = os.read(self._fd, 65536)
            except BlockingIOError:
                return found
            while raw:
                _, mask, _, length = _HEAD.unpack_from(raw)
                name = raw[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode()
                found += [(what, name) for bit, what in _NAMES.items() if mask & bit]
                raw = raw[_HEAD.size + length :]

    def removed(self) -> list[str]:
        """Return the names that were removed since the last call."""
        return [name for what, name in self.seen() if what == "delete"]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        os.close(self._fd)
