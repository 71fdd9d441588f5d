"""Records that outlive whoever wrote them.

They are in a mapped file: what a process has stored there is the kernel's, so SIGKILL loses none of it, and
to store one costs no system call. The number of records is stored after the record, each number in one piece
(native `struct` formats), so a reader never sees half of one.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

__all__ = ["FACTS", "GAVE_UP", "ORIGIN", "RECEIPTS", "SENDS", "UNKNOWN", "Records"]

SENDS = "QQHH4x"
"""A publisher's: begun, returned (0: not yet), topic, number of events in the frame."""
GAVE_UP = "QQ"
"""A publisher's: when it gave up joining a subscriber (R21), and that one's process id."""
ORIGIN = "Q"
"""A publisher's, one record: the origin under which it numbers."""
RECEIPTS = "QIIHBB4x"
"""A subscription's: origin, event, seq, publisher, topic, and one of `ledger.INTACT`, `TORN`, `GAP`."""
FACTS = "QQQQQQ"
"""A subscription's, one record: asked, opened, closing, calm, lost (or UNKNOWN), malformed; see `Hearing`."""
UNKNOWN = 2**64 - 1

_COUNT = struct.Struct("Q")
_FIRST_BYTES = 1 << 16


class Records:
    """A growing file of records of one format, for its only writer."""

    def __init__(self, path: Path, form: str) -> None:
        """Create the file."""
        self._record = struct.Struct(form)
        with path.open("x+b") as file:
            os.ftruncate(file.fileno(), _FIRST_BYTES)
            self._map = mmap.mmap(file.fileno(), _FIRST_BYTES)
        self.count = 0

    def append(self, *fields: int) -> None:
        """Add a record."""
        end = _COUNT.size + self._record.size * (self.count + 1)
        if end > len(self._map):
            self._map.resize(2 * len(self._map))  # the file too
        self._record.pack_into(self._map, end - self._record.size, *fields)
        self.count += 1
        _COUNT.pack_into(self._map, 0, self.count)

    def amend(self, *fields: int) -> None:
        """Replace the last record, field by field."""
        self._record.pack_into(self._map, _COUNT.size + self._record.size * (self.count - 1), *fields)

    def withdraw(self) -> None:
        """Take back the last record."""
        self.count -= 1
        _COUNT.pack_into(self._map, 0, self.count)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    @staticmethod
    def read(path: Path, form: str) -> list[tuple[int, ...]]:
        """Return the records of a file, whose writer may be alive, dead, or not there yet."""
        if not path.exists():
            return []
        raw = path.read_bytes()
        if len(raw) < _COUNT.size:
            return []
        size = struct.calcsize(form)
        (count,) = _COUNT.unpack_from(raw)
        return list(struct.iter_unpack(form, raw[_COUNT.size : _COUNT.size + count * size]))
