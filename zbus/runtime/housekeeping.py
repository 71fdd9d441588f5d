"""Tasks that must run though nobody calls: once a second, or once at a given time. One thread per process.

The thread exists while there are tasks, and sleeps until the next one is due. Tasks run one after the other,
so each must return soon: it must not sleep, nor wait for a lock that is held for long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

from ..errors import Unavailable
from .locks import Lock, native
from .reports import emit_reports, report
from .threads import Thread, start

__all__ = ["register", "schedule", "unregister", "unschedule"]

Task = Callable[[], None]

_INTERVAL = 1.0
_END_SECONDS = 1.0


class _Alarm:
    """What the thread sleeps with. Any thread and any signal handler may wake it, without waiting.

    Attributes:
        at: until when (monotonic) the thread sleeps at most.
        ended: whether the thread is to end.
    """

    def __init__(self) -> None:
        self.at = inf
        self.ended = False
        self._gate = native.allocate_lock()
        self._gate.acquire()

    def sleep(self) -> None:
        """Sleep until `at`, or until `wake` was called since the last sleep."""
        self._gate.acquire(timeout=max(0.0, self.at - time.monotonic()))

    def wake(self) -> None:
        """Wake the thread; if it does not sleep, its next sleep ends at once."""
        with suppress(RuntimeError):  # it was woken already
            self._gate.release()

    def end(self) -> None:
        """Make the thread end."""
        self.ended = True
        self.wake()


class _Housekeeper:
    """The tasks of a process and the thread that runs them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tasks: dict[Task, None] = {}
        self._due: dict[Task, float] = {}  # tasks that run once, and when (monotonic)
        self._thread: Thread | None = None
        self._alarm = _Alarm()

    def add(self, task: Task) -> None:
        self._tasks[task] = None
        try:
            self._adjust()
        except Unavailable:
            self._tasks.pop(task, None)
            raise

    def add_once(self, task: Task, seconds: float) -> None:
        at = time.monotonic() + seconds
        if self._due.get(task, inf) <= at:
            return
        self._due[task] = at
        if self._thread is None:
            try:
                self._adjust()
            except Unavailable:
                self._due.pop(task, None)
                raise
        alarm = self._alarm
        if at < alarm.at:
            alarm.wake()

    def remove(self, task: Task) -> None:
        self._tasks.pop(task, None)
        self._due.pop(task, None)
        thread = self._thread
        with suppress(Unavailable):  # another task has none either
            self._adjust()
        if thread is not None and thread is not self._thread:
            thread.join(_END_SECONDS)

    def remove_once(self, task: Task) -> None:
        self._due.pop(task, None)

    def _adjust(self) -> None:
        """Start the thread if there are tasks, end it if there are none.

        This waits for nobody: a signal handler might wait for another thread that is here, too. Whoever is
        already here, in this thread or another, checks again before it leaves.
        """
        while bool(self._tasks or self._due) != (self._thread is not None):
            if self._lock.held() or not self._lock.run(self._start_or_end):
                return

    def _start_or_end(self) -> None:
        if not (self._tasks or self._due):
            self._alarm.end()
            self._thread = None
        elif self._thread is None:
            self._alarm = _Alarm()
            self._thread = start("zbus-housekeeping", self._run, self._alarm)

    def _run(self, alarm: _Alarm) -> None:
        tick = time.monotonic() + _INTERVAL
        while not alarm.ended:
            # First `inf`, so that whoever adds a task from here on wakes this thread, even one that is not
            # among these.
            alarm.at = inf
            alarm.at = min((tick, *self._due.values()))
            alarm.sleep()
            now = time.monotonic()
            due = [task for task, at in [*self._due.items()] if at <= now]
            regular = [*self._tasks] if now >= tick else []
            if regular:
                tick = now + _INTERVAL
            for task in (*due, *regular):
                # While a task is in a dict, nobody ends this thread but the one that takes over all of them.
                if alarm.ended:
                    return
                if self._due.pop(task, None) is not None or task in self._tasks:
                    _call(task)
            if due or regular:
                emit_reports()
                self._adjust()


def _call(task: Task) -> None:
    try:
        task()
    except Exception as error:
        name = getattr(task, "__qualname__", task)
        report("%s raised an error; it is called again in a second", name, error=error)


_housekeeper = _Housekeeper()


def register(task: Task) -> None:
    """Call `task` about once a second, in a thread, until `unregister`. Registering it twice is fine.

    Raises:
        Unavailable: no thread can be started.
    """
    _housekeeper.add(task)


def unregister(task: Task) -> None:
    """Stop calling `task`, once a second or once. It may be running right now."""
    _housekeeper.remove(task)


def schedule(task: Task, seconds: float) -> None:
    """Call `task` once, about `seconds` from now, in the same thread. An earlier call that is due will do.

    It takes a microsecond, or ten if the thread must be woken to sleep shorter. Any thread and any signal
    handler may call this.

    Raises:
        Unavailable: no thread can be started.
    """
    _housekeeper.add_once(task, seconds)


def unschedule(task: Task) -> None:
    """Forget a call that `schedule` asked for. It may be running right now."""
    _housekeeper.remove_once(task)


def _begin_anew() -> None:
    """In a forked child: the thread and the tasks were the parent's."""
    global _housekeeper
    _housekeeper = _Housekeeper()


os.register_at_fork(after_in_child=_begin_anew)
