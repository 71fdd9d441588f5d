"""The id of a bus directory: 16 random hex digits that tell it from every other bus (R61)."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import Unavailable
from .file_access import create_regular, read_regular, write_all
from .location import file_errors
from .permissions import Permissions

__all__ = ["BUS_ID", "bus_id"]

BUS_ID = "id"
"""The name of its file."""

_ID = re.compile(rb"[0-9a-f]{16}")


def bus_id(directory: Path, permissions: Permissions) -> str:
    """Return the id of the bus in a directory; give it one if it has none.

    Raises:
        Unavailable: the file system refused, or the file holds no id.
    """
    path = directory / BUS_ID
    with file_errors("open", path):
        try:
            found = read_regular(path)
        except FileNotFoundError:
            _create(path, permissions)
            found = read_regular(path)
    if not _ID.fullmatch(found):
        raise Unavailable(f"{path} holds no id of a bus: remove it", path=str(path))
    return found.decode()


def _create(path: Path, permissions: Permissions) -> None:
    """Create the file, complete before it gets its name, unless somebody else is faster."""
    scratch = path.with_name(f"{os.urandom(8).hex()}.new")
    fd = create_regular(scratch, permissions.file_mode)
    try:
        write_all(fd, os.urandom(8).hex().encode())
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        os.close(fd)
        with suppress(OSError):
            scratch.unlink()
