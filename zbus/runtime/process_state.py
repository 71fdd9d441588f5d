"""What the kernel knows of a peer's process: whether it runs, is stopped, or waits for a CPU.

A peer that does not answer is slow, stopped or broken. Time alone cannot tell which: on a machine with more
work than CPUs every process is late. On Linux the states of its threads can; elsewhere nothing is known.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import os
import struct
import time
from contextlib import closing, suppress
from io import FileIO  # not `open`, which is there no more when modules are torn down
from typing import NamedTuple

from .locks import native

__all__ = ["ProcessState", "greets", "listening_process", "peer_process", "process_state", "waits_for_cpu"]

_BUSY_SHARE = 0.8
_GREETING_SECONDS = 0.25
_CPUCLOCK_SCHED = 2  # of <linux/posix-timers.h>: the time that a process has spent on a CPU


class ProcessState(NamedTuple):
    """A process at one moment.

    Attributes:
        at: when, in seconds of `time.monotonic`.
        cpu: seconds that its threads have run so far.
        ready: whether one of its threads could run, or waits for a page or a disk.
        stopped: whether all its threads are stopped, by a signal or a debugger.
    """

    at: float
    cpu: float
    ready: bool
    stopped: bool


def listening_process(path: str) -> int:
    """Return the id of the process that listens at a unix socket; 0 if that is unknown."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    try:
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.setblocking(False)
            probe.connect(path)
            return peer_process(probe)
    except OSError:  # gone, or its backlog is full, or there is no descriptor to ask with
        return 0


def peer_process(connection: socket.socket) -> int:
    """Return the id of the process that listened for a connection; 0 if that is unknown.

    Raises:
        OSError: the connection is gone.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]  # 0 if it is of another container
    return pid


def greets(path: str) -> bool:
    """Return whether the listener of a unix socket greets a new connection. In doubt, it does.

    A ZeroMQ socket does even while its users are held up, since it greets in the I/O thread.
    """
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(_GREETING_SECONDS)
        try:
            probe.connect(path)
            return bool(probe.recv(1))
        except TimeoutError:
            return False
        except OSError:
            return True


def process_state(pid: int) -> ProcessState | None:
    """Return the state of a process, or `None` if it cannot be seen.

    If it is this process, the calling thread is left out.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        cpu = time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:
        return None
    me = str(native.get_native_id())
    states = {_state(pid, thread) for thread in threads if thread != me} - {""}
    return ProcessState(
        time.monotonic(), cpu, bool(states & {"R", "D"}), bool(states) and states <= set("TtXZ")
    )


def waits_for_cpu(before: ProcessState, after: ProcessState) -> bool:
    """Return whether a process has work to do and does not get the CPU time for it.

    A process that spins has a ready thread, too, but gets a CPU nearly all the time.
    """
    return after.ready and after.cpu - before.cpu < _BUSY_SHARE * (after.at - before.at)


def _state(pid: int, thread: str) -> str:
    with suppress(OSError), FileIO(f"/proc/{pid}/task/{thread}/stat") as file:
        # The name before the state may hold any character, brackets included.
        return file.read(512).rpartition(b")")[2][1:2].decode()
    return ""
