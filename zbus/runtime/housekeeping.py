"""Tasks that must run once a second though nobody calls: one thread per process, while there are tasks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from ..errors import Unavailable
from .locks import Lock
from .reports import emit_reports, report
from .threads import Event, Thread, start

__all__ = ["register", "unregister"]

Task = Callable[[], None]

_INTERVAL = 1.0
_END_SECONDS = 1.0


class _Housekeeper:
    """The tasks of a process and the thread that runs them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tasks: dict[Task, None] = {}
        self._thread: Thread | None = None
        self._ended = Event()

    def add(self, task: Task) -> None:
        self._tasks[task] = None
        try:
            self._adjust()
        except Unavailable:
            self._tasks.pop(task, None)
            raise

    def remove(self, task: Task) -> None:
        self._tasks.pop(task, None)
        thread = self._thread
        with suppress(Unavailable):  # another task has none either
            self._adjust()
        if thread is not None and thread is not self._thread:
            thread.join(_END_SECONDS)

    def _adjust(self) -> None:
        """Start the thread if there are tasks, end it if there are none.

        This waits for nobody: a signal handler might wait for another thread that is here, too. Whoever is
        already here, in this thread or another, checks again before it leaves.
        """
        while bool(self._tasks) != (self._thread is not None):
            if self._lock.held() or not self._lock.run(self._start_or_end):
                return

    def _start_or_end(self) -> None:
        if not self._tasks:
            self._ended.set()
            self._thread = None
        elif self._thread is None:
            self._ended = Event()
            self._thread = start("zbus-housekeeping", self._run, self._ended)

    def _run(self, ended: Event) -> None:
        while not ended.wait(_INTERVAL):
            for task in [*self._tasks]:
                try:
                    task()
                except Exception as error:
                    name = getattr(task, "__qualname__", task)
                    report("%s raised an error; it is called again in a second", name, error=error)
            emit_reports()


_housekeeper = _Housekeeper()


def register(task: Task) -> None:
    """Call `task` about once a second, in a thread, until `unregister`. Registering it twice is fine.

    The task must return soon, and must not wait for a lock that is held for long.

    Raises:
        Unavailable: no thread can be started.
    """
    _housekeeper.add(task)


def unregister(task: Task) -> None:
    """Stop calling `task`. It may be running right now."""
    _housekeeper.remove(task)


def _begin_anew() -> None:
    """In a forked child: the thread and the tasks were the parent's."""
    global _housekeeper
    _housekeeper = _Housekeeper()


os.register_at_fork(after_in_child=_begin_anew)
