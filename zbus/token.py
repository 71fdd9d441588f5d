"""The token of a bus: eight bytes in a file, of which any change means that the roster has changed."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from .errors import Unavailable
from .files import open_regular
from .location import file_errors

__all__ = ["Token"]

_BYTES = 8


class Token:
    """The token file, read through a mapping and written through a descriptor.

    Never written through the mapping: on a file system that copies on write, or is over its quota, that
    would kill the process by SIGBUS when there is no room. As a write it is an error like any other.

    Attributes:
        value: one unsigned 64-bit number; `value[0]` costs 40 ns.
        identity: which file it is.
    """

    def __init__(self, path: Path) -> None:
        """Open the token at `path`, made if there is none.

        Raises:
            Unavailable: the file system refused, or something else has its name.
        """
        with file_errors("open", path):
            try:
                self._fd = open_regular(path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise Unavailable(f"{path} is not a regular file: remove it", path=str(path)) from error
                raise
            try:
                # Empty: new, or cut short by a crash. The write also makes sure that the page exists.
                if os.fstat(self._fd).st_size < _BYTES:
                    self.write()
                self._map = mmap.mmap(self._fd, _BYTES, prot=mmap.PROT_READ)
                info = os.fstat(self._fd)
                self.identity = info.st_dev, info.st_ino
            except BaseException:
                os.close(self._fd)
                raise
        self.value = memoryview(self._map).cast("Q")

    def write(self) -> None:
        """Change it.

        Raises:
            OSError: the file system refused.
        """
        os.pwrite(self._fd, os.urandom(_BYTES), 0)

    def close(self) -> None:
        """Unmap and close the file: nobody may read `value` any more."""
        self.value.release()
        self._map.close()
        self.retire()

    def retire(self) -> None:
        """Write no more; who still reads `value` may go on."""
        fd, self._fd = self._fd, -1  # the number may soon be another file's
        if fd >= 0:
            os.close(fd)
