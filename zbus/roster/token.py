"""The token of a bus: eight bytes in a file, of which any change means that the roster has changed."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

from ..errors import PermissionDenied, Unavailable
from .file_access import create_regular, leads_to, open_regular, write_all
from .location import file_errors

__all__ = ["Token"]

_BYTES = 8


class Token:
    """The token file, read through a mapping and written through a descriptor.

    Never written through the mapping: on a file system that copies on write, or is over its quota, that
    would kill the process by SIGBUS when there is no room. As a write it is an error like any other.

    Attributes:
        value: one unsigned 64-bit number; `value[0]` costs 40 ns.
    """

    def __init__(self, path: Path, mode: int) -> None:
        """Open the token at `path`, made with `mode` if there is none.

        Raises:
            PermissionDenied: it is for its maker alone.
            Unavailable: the file system refused, or something else has its name.
        """
        with file_errors("open", path):
            self._fd = _open(path, mode)
            try:
                # Of a simple peer, or cut short by a crash. The write also makes sure that the page exists.
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
        """Change it.

        Raises:
            OSError: the file system refused.
        """
        write_all(self._fd, os.urandom(_BYTES))

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


def _open(path: Path, mode: int) -> int:
    while True:
        try:
            return open_regular(path, os.O_RDWR)
        except FileNotFoundError:
            _make(path, mode)
        except PermissionError as error:
            raise PermissionDenied(
                f"{path} is for its maker alone: in a directory prepared for a group, its owner must"
                f" give it to the group: chmod 660 {path}",
                path=str(path),
            ) from error
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise Unavailable(f"{path} is not a regular file: remove it", path=str(path)) from error
            raise


def _make(path: Path, mode: int) -> None:
    """Make a token that has its rights and its bytes before it has its name, unless there is one by then."""
    scratch = path.with_name(f"{os.urandom(8).hex()}.new")
    fd = create_regular(scratch, mode)
    try:
        write_all(fd, os.urandom(_BYTES))
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.close(fd)
        with suppress(OSError):
            scratch.unlink()
