"""The ends of a process: what happens then to every bus that is open.

the main thread ends         channels end, so that threads which consume them can be joined
atexit, end of a pool worker each open bus is closed
os._exit, os.exec...         what was sent is handed over; nothing is closed
fork                         in the child, each use of an inherited bus raises `Canceled`
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..errors import Canceled, Unavailable
from .reports import emit_reports
from .threads import before_thread_joins, forbid_new_threads, new_threads_forbidden, start

__all__ = [
    "Closable",
    "check_subscribing",
    "close_in_background",
    "close_inherited",
    "open_nodes",
    "process_exiting",
    "register",
    "unregister",
]


class Closable(Protocol):
    """What this module needs of a node."""

    closed: str
    path: Path

    def close(self) -> None:
        """See `Bus.close`."""

    def leave(self) -> None:
        """Remove its files from the bus directory, and wait for nothing."""

    def end_channels(self) -> None:
        """End all channels; sending goes on."""

    def hand_over(self, since: float) -> Callable[[], None]:
        """Hand over what was sent, lingering from `since` (monotonic); return a call that resumes sending."""

    def after_fork_in_child(self) -> None:
        """In a forked child: have every use fail at once."""


_GUARDED = "__zbus__"
_open: set[Closable] = set()
_inherited: list[Callable[[], None]] = []
# Pools that end a child without atexit. Each runs the finalizers of its own `util` module, all of one form.
_POOLS = ("multiprocessing", "billiard", "multiprocess")
_finalized: dict[str, int] = {}
_main_ended = new_threads_forbidden()
_hooked = False


def register(node: Closable) -> None:
    """Close `node` when the process ends."""
    _open.add(node)
    _guard_hard_ends()
    for pool in _POOLS:
        process, util = sys.modules.get(f"{pool}.process"), sys.modules.get(f"{pool}.util")
        if process and util and _is_child(process) and _finalized.get(pool) != os.getpid():
            _finalized[pool] = os.getpid()
            util.Finalize(None, _close_all, exitpriority=0)


def _is_child(process: Any) -> bool:
    return getattr(process.current_process(), "_parent_pid", None) is not None


def _guard_hard_ends() -> None:
    """Make every way to end this process without atexit hand over first what was sent.

    That is how the workers of many pools end. Other processes clean up what they leave.
    """
    for name in ("_exit", "execv", "execve"):
        if not hasattr(getattr(os, name), _GUARDED):
            setattr(os, name, _guarded(getattr(os, name)))


def _guarded(end: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(end)
    def hand_over_and_end(*args: Any, **options: Any) -> Any:
        emit_reports()  # before nothing can be sent any more
        since = time.monotonic()
        resumes = [node.hand_over(since) for node in open_nodes()]
        try:
            return end(*args, **options)
        finally:  # reached only if it failed, as exec may
            for resume in resumes:
                resume()

    setattr(hand_over_and_end, _GUARDED, True)
    return hand_over_and_end


def close_inherited(close: Callable[[], None]) -> Callable[[], None]:
    """Call `close` in every forked child; a decorator.

    It is for what another thread of the parent had open for a node that was not registered at that moment.
    """
    _inherited.append(close)
    return close


def process_exiting() -> bool:
    """Return whether this process exits and has closed its buses already; nobody would close another one."""
    return new_threads_forbidden()


def check_subscribing() -> None:
    """Make channels end before Python joins the threads that receive from them.

    `atexit` would be too late: Python joins all threads except daemons before it calls that.

    Raises:
        Canceled: the main thread has ended already.
    """
    global _hooked, _main_ended
    if not _hooked:
        _main_ended = _main_ended or not before_thread_joins(_end_channels)
        _hooked = True
    if _main_ended:
        raise Canceled("the program is about to end: subscribe before its main thread does")


def _end_channels() -> None:
    global _main_ended
    _main_ended = True
    for node in open_nodes():
        node.end_channels()


def open_nodes() -> list[Closable]:
    """Return the nodes of this process that are open."""
    return [*_open]


def unregister(node: Closable) -> None:
    """Note that `node` is closed."""
    _open.discard(node)


def close_in_background(close: Callable[[], object]) -> None:
    """Close a node in a thread: in finalizers and signal handlers, waiting for others may never end."""
    with suppress(Unavailable):  # the interpreter is about to end, and closes it itself
        start("zbus-close", close, wait=False)


@atexit.register
def _end() -> None:
    _close_all()
    emit_reports()
    forbid_new_threads()


def _close_all() -> None:
    for node in open_nodes():
        try:
            node.close()
        except KeyboardInterrupt:  # the user does not want to wait for linger
            with suppress(KeyboardInterrupt):
                node.leave()


def _after_fork_in_child() -> None:
    nodes = open_nodes()
    _open.clear()
    for node in nodes:
        with suppress(Exception):  # one failure must not leave the other buses usable
            node.after_fork_in_child()
    # And for a node that another thread of the parent was about to open or to close.
    for close in _inherited:
        close()


os.register_at_fork(after_in_child=_after_fork_in_child)
