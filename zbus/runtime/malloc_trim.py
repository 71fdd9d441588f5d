"""Memory that libzmq has freed, and that the C library keeps for itself: given back to the system."""

from __future__ import annotations

import importlib
from contextlib import suppress

__all__ = ["note_large_bytes", "trim_memory"]

_WORTH_BYTES = 16 << 20

_moved = 0
_seen = 0


def note_large_bytes(size: int) -> None:
    """Note that so many bytes of large frames came by, and are freed some day. Threads may lose a count."""
    global _moved
    _moved += size


def trim_memory() -> None:
    """Give back what is free, once much came by and nothing more in the last second. Called once a second."""
    global _moved, _seen
    before, _seen = _seen, _moved
    if _moved < _WORTH_BYTES or _moved != before:
        return
    _moved = _seen = 0
    with suppress(OSError, AttributeError, ImportError):  # not glibc, or none to be had any more
        importlib.import_module("ctypes").CDLL(None).malloc_trim(0)
