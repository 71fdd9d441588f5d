"""The id of a bus directory: 16 random hex digits that tell it from every other bus (R61)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import Unavailable
from .file_access import create_whole, read_regular
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
            create_whole(path, os.urandom(8).hex().encode(), permissions.file_mode)
            found = read_regular(path)
    if not _ID.fullmatch(found):
        raise Unavailable(f"{path} holds no id of a bus: remove it", path=str(path))
    return found.decode()
