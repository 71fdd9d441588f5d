"""Checks that there are threads and memory enough, for want of which libzmq aborts the process.

They are made before libzmq starts something. Another part of the program may still take what is left in
between; that cannot be prevented.
"""

from __future__ import annotations

import mmap
import os
import time

from ..errors import Unavailable
from .locks import native
from .os_errors import out_of_memory
from .threads import sleep

__all__ = ["check_memory", "check_threads"]

# More than a bus takes for its first channels, besides the stacks of its threads.
_BYTES = 16 * 1024 * 1024
# How long threads may take to begin, and how long the kernel may count them after they have ended.
_BEGIN_SECONDS = 10.0
_ENDED_SECONDS = 1.0
_LOOK_SECONDS = 0.00001
_LONGEST_LOOK_SECONDS = 0.001


def check_memory() -> None:
    """Refuse when this process can get hardly any more memory.

    Raises:
        Unavailable: it cannot. Retryable.
    """
    try:
        mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()  # takes 5 µs
    except (OSError, MemoryError) as error:
        raise out_of_memory("cannot use the bus") from error


def check_threads(count: int) -> None:
    """Refuse unless `count` more threads can be started. The only way to know is to start them.

    Call this in a thread that blocks all signals, as those of `start` do: these inherit it. It takes 0.2 ms.

    Raises:
        Unavailable: there are too many threads, or no memory for their stacks. Retryable.
    """
    idents: list[int] = []
    gates = [native.allocate_lock() for _ in range(count)]
    here = native.allocate_lock()
    here.acquire()

    def run(gate: native.LockType) -> None:
        idents.append(native.get_native_id())
        if len(idents) == count:
            here.release()
        gate.acquire()

    for gate in gates:
        gate.acquire()
    try:
        for gate in gates:
            native.start_new_thread(run, (gate,))
        if not here.acquire(timeout=_BEGIN_SECONDS):
            raise RuntimeError("they do not begin")
    except (RuntimeError, MemoryError) as error:
        why = str(error) or "out of memory"
        raise Unavailable(f"cannot start the threads of a bus: {why}", retryable=True) from error
    finally:
        for gate in gates:
            gate.release()
    _await_end(idents)


def _await_end(idents: list[int]) -> None:
    """Wait until the kernel no longer counts these threads, which is later than their end in Python."""
    deadline = time.monotonic() + _ENDED_SECONDS
    pause = 0.0
    while any(os.path.exists(f"/proc/self/task/{ident}") for ident in idents):
        if time.monotonic() > deadline:
            break
        sleep(pause)
        pause = min(pause + _LOOK_SECONDS, _LONGEST_LOOK_SECONDS)
