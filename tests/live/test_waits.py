"""Waiting: in time, for nothing, and without work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

import zbus

from .process import receive

WAITS = ["receive", "select", "select of two"]


def waiter(bus: zbus.Bus, how: str, overflow: str) -> Callable[[float], object]:
    """Return a wait of so many seconds on channels that have had an event, and have none."""
    subs = [bus.subscribe("a", overflow=overflow) for _ in range(2)]
    bus.send("a", "b", "/1")
    for sub in subs:
        receive(sub)
    channels = [sub.channel() for sub in subs]
    waits: dict[str, Callable[[float], object]] = {
        "receive": lambda timeout: channels[0].receive(timeout=timeout),
        "select": lambda timeout: zbus.select(channels[0], timeout=timeout),
        "select of two": lambda timeout: zbus.select(*channels, timeout=timeout),
    }

    def wait(timeout: float) -> None:
        with pytest.raises(zbus.Timeout):
            waits[how](timeout)

    return wait


@pytest.mark.parametrize("overflow", ["drop", "latest"])
@pytest.mark.parametrize("how", WAITS)
def test_a_wait_costs_no_cpu_time(bus: zbus.Bus, how: str, overflow: str) -> None:
    wait = waiter(bus, how, overflow)
    before = time.thread_time()
    wait(0.5)
    assert time.thread_time() - before < 0.1


@pytest.mark.parametrize("overflow", ["drop", "latest"])
@pytest.mark.parametrize("how", WAITS)
def test_a_wait_ends_in_time(bus: zbus.Bus, how: str, overflow: str) -> None:
    wait = waiter(bus, how, overflow)
    took = []
    for _ in range(3):  # the machine may be busy once
        start = time.monotonic()
        wait(0.1)
        took.append(time.monotonic() - start)
    assert 0.1 <= min(took) < 0.9


def test_select_asks_again_for_a_channel_that_another_thread_held(bus: zbus.Bus) -> None:
    """It is not told when that thread is done, so it must not sleep for long."""
    held, idle = bus.subscribe("a"), bus.subscribe("b")
    lock = held.channel()._source.lock
    took = []
    for _ in range(3):  # the machine may be busy once
        has, free = threading.Event(), threading.Event()

        def hold(has: threading.Event = has, free: threading.Event = free) -> None:
            with lock:
                has.set()
                free.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        assert has.wait(10)
        bus.send("a", "b", "/1")
        timer = threading.Timer(0.05, free.set)
        timer.start()
        start = time.monotonic()
        channel, _, ok = zbus.select(held.channel(), idle.channel(), timeout=10)
        took.append(time.monotonic() - start)
        assert (channel, ok) == (held.channel(), True)
        thread.join(10)
        timer.join(10)
    assert min(took) < 0.7
