"""Give memory that libzmq has freed, and the C library keeps, back to the system."""

from __future__ import annotations

import importlib
from contextlib import suppress

__all__ = ["note_large_bytes", "trim_memory"]

_WORTH_BYTES = 16 << 20

_moved = 0
_seen = 0


def note_large_bytes(size: int) -> None:
    """Count bytes of large frames, which are freed some day. Threads may lose a count, which does no harm."""
    global _moved
    _moved += size


def trim_memory() -> None:
    """Give free memory back if much was counted, and nothing in the last second. Called once a second."""
    global _moved, _seen
    before, _seen = _seen, _moved
    if _moved < _WORTH_BYTES or _moved != before:
        return
    _moved = _seen = 0
    with suppress(OSError, AttributeError, ImportError):  # not glibc, or the interpreter is ending
        importlib.import_module("ctypes").CDLL(None).malloc_trim(0)
