"""Tasks that run though nobody calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from zbus.runtime import housekeeping, threads


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[threads.Event]:
    """An event that a housekeeper of its own can set. The tick is far away, so only `schedule` makes it."""
    monkeypatch.setattr(housekeeping, "_INTERVAL", 1000.0)
    monkeypatch.setattr(housekeeping, "_housekeeper", housekeeping._Housekeeper())
    event = threads.Event()
    yield event
    housekeeping.unregister(event.set)


def test_a_task_runs_once_when_it_is_due(task: threads.Event) -> None:
    calls = []

    def run() -> None:
        calls.append(time.monotonic())
        task.set()

    start = time.monotonic()
    housekeeping.schedule(run, 0.05)
    assert task.wait(20)
    assert calls[0] >= start + 0.05
    again = threads.Event()
    housekeeping.schedule(again.set, 0.05)
    assert again.wait(20)
    assert len(calls) == 1


def test_an_earlier_task_wakes_the_thread_that_sleeps_for_a_later_one(task: threads.Event) -> None:
    later = threads.Event()
    housekeeping.schedule(later.set, 1000)
    housekeeping.schedule(task.set, 0.01)
    assert task.wait(20)
    assert not later.is_set()
    housekeeping.unschedule(later.set)


def test_of_two_requests_the_earlier_one_counts(task: threads.Event) -> None:
    housekeeping.schedule(task.set, 0.01)
    housekeeping.schedule(task.set, 1000)
    assert task.wait(20)
    task_2 = threads.Event()
    housekeeping.schedule(task_2.set, 1000)
    housekeeping.schedule(task_2.set, 0.01)
    assert task_2.wait(20)


def test_a_task_may_schedule_itself(task: threads.Event) -> None:
    left = [3]

    def run() -> None:
        left[0] -= 1
        if left[0]:
            housekeeping.schedule(run, 0)
        else:
            task.set()

    housekeeping.schedule(run, 0)
    assert task.wait(20)


def test_a_task_that_fails_does_not_stop_the_others(task: threads.Event) -> None:
    def fail() -> None:
        raise ValueError

    housekeeping.schedule(fail, 0)
    housekeeping.schedule(task.set, 0.01)
    assert task.wait(20)


def test_a_task_that_is_due_at_once_is_called_though_nothing_else_is_to_be_done(
    task: threads.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has started the thread sees no task any more, and ends it, before it has called this one."""
    taken, go_on = threads.Event(), threads.Event()
    start = housekeeping.start

    class Tasks(dict[Any, Any]):
        def pop(self, *task: Any) -> Any:
            found = super().pop(*task)
            taken.set()
            assert go_on.wait(20)
            return found

    def started(*arguments: Any) -> threads.Thread:
        thread = start(*arguments)
        assert taken.wait(20)
        return thread

    monkeypatch.setattr(housekeeping._housekeeper, "_due", Tasks())
    monkeypatch.setattr(housekeeping, "start", started)
    housekeeping.schedule(task.set, 0)
    go_on.set()
    assert task.wait(20)


def test_what_is_unscheduled_is_not_called(task: threads.Event) -> None:
    dropped = threads.Event()
    housekeeping.schedule(dropped.set, 0.01)
    housekeeping.unschedule(dropped.set)
    housekeeping.schedule(task.set, 0.05)
    assert task.wait(20)
    assert not dropped.is_set()


def test_the_thread_ends_with_its_last_task(task: threads.Event) -> None:
    before = {*threads.running()}
    running: list[threads.Thread] = []

    def run() -> None:
        running.extend({*threads.running()} - before)
        task.set()

    housekeeping.schedule(run, 0)
    assert task.wait(20)
    [thread] = [thread for thread in running if thread.name == "zbus-housekeeping"]
    assert thread.join(20)
