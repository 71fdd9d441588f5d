"""The I/O threads of libzmq as the kernel sees them: whether they have written everything that they can.

A send wakes the I/O thread by writing to its eventfd, which makes the thread runnable before the call
returns. So a thread that sleeps has written everything it was given, or as much as there was room for.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from contextlib import suppress
from io import FileIO  # not `open`, which is there no more when modules are torn down

__all__ = ["IoThreads"]

_TASKS = "/proc/self/task"
_NAME = re.compile(rb"Name:\t([^\n]*)")
_STATE = re.compile(rb"State:\t(\w)")
_SLEEPS = re.compile(rb"voluntary_ctxt_switches:\t(\d+)")
# How long a thread that was just started may have no name yet.
_UNNAMED_SECONDS = 0.2
_contexts = itertools.count()


class IoThreads:
    """The I/O threads of one context.

    Attributes:
        prefix: what the names of the context's threads start with: `zmq.THREAD_NAME_PREFIX`.
        visible: whether this system shows threads and libzmq names them.
    """

    def __init__(self) -> None:
        """Take a prefix that no other context of this process has."""
        self.prefix = next(_contexts) % 10_000  # a thread's name has 15 characters
        self.visible = os.path.isdir(_TASKS)
        self._name = f"{self.prefix}/ZMQbg/IO/".encode()
        self._tasks: list[str] = []
        self._missed = 0.0

    def asleep(self) -> tuple[int, ...] | None:
        """Return how often each thread has fallen asleep so far if all of them sleep now, else `None`."""
        if not self.visible:
            return ()
        if not self._tasks and not self._find():
            return None
        sleeps = []
        for task in self._tasks:
            status = _status(task)
            state, count = _STATE.search(status), _SLEEPS.search(status)
            if state is None or count is None or state[1] != b"S":
                self.visible = os.path.isdir(_TASKS)  # after a chroot it is not
                return None if self.visible else ()
            sleeps.append(int(count[1]))
        return tuple(sleeps)

    def _find(self) -> bool:
        with suppress(OSError):  # no /proc after a chroot, or no descriptor left
            self._tasks = [task for task in os.listdir(_TASKS) if self._is_ours(_status(task))]
        now = time.monotonic()
        self._missed = self._missed or now
        self.visible = bool(self._tasks) or now < self._missed + _UNNAMED_SECONDS
        return bool(self._tasks)

    def _is_ours(self, status: bytes) -> bool:
        name = _NAME.match(status)
        return name is not None and name[1].startswith(self._name)


def _status(task: str) -> bytes:
    try:
        with FileIO(f"{_TASKS}/{task}/status") as file:
            return file.read()
    except OSError:  # it has ended
        return b""
