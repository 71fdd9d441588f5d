"""The ends of a process: at its exit every open bus is closed; in a forked child each is disowned."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from .errors import Unavailable
from .members import close_inherited
from .threads import start

__all__ = ["Closable", "abandon", "ended", "open_nodes", "opened"]


class Closable(Protocol):
    """A node, as far as its end goes."""

    closed: str
    path: Path

    def close(self) -> None:
        """See `Bus.close`."""

    def disown(self) -> None:
        """In a forked child: have every use fail at once."""


_open: set[Closable] = set()
_child = 0


def opened(node: Closable) -> None:
    """Have `node` closed when the process ends."""
    global _child
    _open.add(node)
    # A child that multiprocessing has forked ends without atexit, but runs the finalizers of its own module.
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process and util and process.parent_process() is not None and _child != os.getpid():
        _child = os.getpid()
        util.Finalize(None, _close_all, exitpriority=0)


def open_nodes() -> list[Closable]:
    """Return the nodes of this process that are open."""
    return [*_open]


def ended(node: Closable) -> None:
    """Note that `node` is closed."""
    _open.discard(node)


def abandon(node: Closable) -> None:
    """Close a node that nobody refers to any more.

    In a thread, since garbage collection runs anywhere and closing waits for others.
    """
    with suppress(Unavailable):  # the interpreter is about to end, and will come by itself
        start("zbus-close", node.close, wait=False)


@atexit.register
def _close_all() -> None:
    for node in open_nodes():
        with suppress(KeyboardInterrupt):  # somebody will not wait for what lingers
            node.close()


def _disown_all() -> None:
    nodes = open_nodes()
    _open.clear()
    for node in nodes:
        with suppress(Exception):  # each by itself: the others are the parent's all the same
            node.disown()
    close_inherited()  # also of a node that another thread of the parent was about to open or to close


os.register_at_fork(after_in_child=_disown_all)
