"""The clock that all processes of a machine share, in whatever time namespace they are.

CLOCK_MONOTONIC is the same for all of them, except in a time namespace of its own (`unshare -T`, a restored
container). There the kernel adds an offset, and says which.
"""

from __future__ import annotations

import os
import time
from io import FileIO  # not `open`, which is there no more when modules are torn down

__all__ = ["clock"]

_PROC = "/proc/self"
_CHECK_NS = 1_000_000_000  # a container that is restored gets another offset


class _Offset:
    """What the kernel adds to CLOCK_MONOTONIC in this process, in nanoseconds; `None` if unknown."""

    def __init__(self) -> None:
        self._value: int | None = None
        self._namespace = ""  # of which it is
        self._checked = -_CHECK_NS

    def at(self, now: int) -> int | None:
        """Return the offset; look it up again if that was long ago, or if time went backwards."""
        if not 0 <= now - self._checked < _CHECK_NS:
            self._look_up()
            self._checked = now
        return self._value

    def _look_up(self) -> None:
        try:
            namespace = os.readlink(f"{_PROC}/ns/time")
            # The offsets are those of the namespace that children will be in. It is this process's own too,
            # unless it has called `unshare` itself; then what was known of its own before stays true.
            if namespace == os.readlink(f"{_PROC}/ns/time_for_children"):
                self._namespace, self._value = namespace, _read()
            elif namespace != self._namespace:
                self._namespace, self._value = namespace, None
        except OSError:  # no such namespaces here
            self._namespace, self._value = "", 0


def _read() -> int | None:
    with FileIO(f"{_PROC}/timens_offsets") as file:
        for line in file.read().decode().splitlines():
            name, *numbers = line.split()
            if name == "monotonic" and len(numbers) == 2:
                return int(numbers[0]) * 1_000_000_000 + int(numbers[1])
    return None


_offset = _Offset()


def clock() -> int:
    """Return the machine's CLOCK_MONOTONIC in microseconds, or -1 if it cannot be determined."""
    now = time.monotonic_ns()
    offset = _offset.at(now)
    return -1 if offset is None else (now - offset) // 1000
