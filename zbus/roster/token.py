"""The token of a bus: eight bytes in a file. When they change, the roster has changed."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from ..errors import PermissionDenied, Unavailable
from .file_access import create_whole, leads_to, open_regular, write_all
from .location import file_errors

__all__ = ["Token"]

_BYTES = 8


class Token:
    """The token file, read through a memory mapping and written through a descriptor.

    It is never written through the mapping: without room on the file system (copy-on-write, quota) that would
    kill the process with SIGBUS, where a write just fails.

    Attributes:
        value: one unsigned 64-bit number; reading `value[0]` costs 40 ns.
    """

    def __init__(self, path: Path, mode: int) -> None:
        """Open the token at `path`, and create it with `mode` if there is none.

        Raises:
            PermissionDenied: only the user who created it may use it.
            Unavailable: the file system refused, or `path` is not a regular file.
        """
        with file_errors("open", path):
            self._fd = _open(path, mode)
            try:
                # It may be too short after a crash. Writing it also makes sure that the page exists.
                if os.fstat(self._fd).st_size < _BYTES:
                    self.write()
                self._map = mmap.mmap(self._fd, _BYTES, prot=mmap.PROT_READ)
            except BaseException:
                os.close(self._fd)
                raise
        self.value = memoryview(self._map).cast("Q")

    def at(self, path: str) -> bool:
        """Return whether it is the file at `path`."""
        return leads_to(path, self._fd)

    def write(self) -> None:
        """Write a new value.

        Raises:
            OSError: the file system refused.
        """
        write_all(self._fd, os.urandom(_BYTES))

    def close(self) -> None:
        """Unmap and close the file; nobody may read `value` any more."""
        self.value.release()
        self._map.close()
        self.retire()

    def retire(self) -> None:
        """Close the file; `value` stays readable."""
        fd, self._fd = self._fd, -1  # first, since the descriptor may be reused at once
        if fd >= 0:
            os.close(fd)


def _open(path: Path, mode: int) -> int:
    while True:
        try:
            return open_regular(path, os.O_RDWR)
        except FileNotFoundError:
            create_whole(path, os.urandom(_BYTES), mode)
        except PermissionError as error:
            raise PermissionDenied(
                f"only the owner of {path} may use it: in a directory prepared for a group, the owner must"
                f" give it to the group: chmod 660 {path}",
                path=str(path),
            ) from error
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise Unavailable(f"{path} is not a regular file: remove it", path=str(path)) from error
            raise
