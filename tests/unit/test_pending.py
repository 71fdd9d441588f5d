"""Calls that wait for a lock: each is made once, in order, by whoever lets go of it."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from zbus.runtime.deferred_calls import DeferredCalls
from zbus.runtime.locks import Lock


def test_a_call_is_made_at_once_if_nobody_holds_the_lock() -> None:
    lock, made = Lock(), []
    DeferredCalls(lock).run(lambda: made.append(lock.held()))
    assert made == [True]
    assert not lock.held()


def test_amid_what_its_thread_does_under_the_lock_it_waits() -> None:
    lock, made = Lock(), list[int]()
    pending = DeferredCalls(lock)
    with lock:
        pending.run(lambda: made.append(1))
        pending.run(lambda: made.append(2))
        assert not made
    pending.run()
    assert made == [1, 2]


def test_while_another_thread_holds_the_lock_nobody_waits() -> None:
    lock, made = Lock(), list[int]()
    pending = DeferredCalls(lock)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go.wait()
        pending.run()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pending.run(lambda: made.append(1))
    assert not made
    go.set()
    thread.join()
    assert made == [1]


class Taken(deque[Any]):
    """Is empty by the time that one takes from it, though it was not: another thread was faster."""

    def popleft(self) -> Any:
        self.clear()
        return super().popleft()


def test_that_another_thread_was_faster_is_no_error() -> None:
    pending = DeferredCalls(Lock())
    pending._calls = Taken()
    pending.run(lambda: None)
    assert not pending._calls


def test_an_error_of_a_call_is_not_taken_for_that() -> None:
    lock = Lock()
    with pytest.raises(IndexError):
        DeferredCalls(lock).run(lambda: [].pop())
    assert not lock.held()
