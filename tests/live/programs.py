"""A program with child processes of `multiprocessing`: `python -m tests.live.programs WHAT METHOD`.

A program of its own, since what multiprocessing starts beside the children outlives a test.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import zbus


def send_some(first: int, count: int) -> int:
    """Send on the default bus and return without closing anything; return this process's id."""
    for number in range(first, first + count):
        zbus.send("jobs", "done", f"/job/{number}", number)
    return os.getpid()


def answer(ready: Any, out: Any) -> None:
    """Subscribe, say so, and put what comes first."""
    with zbus.subscribe("jobs") as sub:
        ready.set()
        out.put(sub.channel().receive(timeout=30)[0].data)


def use(bus: zbus.Bus) -> None:
    """Use a bus of the parent, then this process's own."""
    try:
        bus.send("jobs", "done", "/job/never")
    except zbus.Canceled as error:
        zbus.send("jobs", "done", "/job/1", error.message)


def take(sub: zbus.Subscription, count: int) -> list[Any]:
    return [sub.channel().receive(timeout=30)[0].data for _ in range(count)]


def join(process: Any) -> None:
    process.join(10)
    assert process.exitcode == 0, process.exitcode


def sends(context: Any) -> None:
    with zbus.subscribe("jobs", overflow="block") as sub:
        process = context.Process(target=send_some, args=(0, 2_000))
        process.start()
        assert take(sub, 2_000) == list(range(2_000))
        join(process)


def receives(context: Any) -> None:
    zbus.send("jobs", "early", "/", 0)  # the parent's bus is in use
    ready, out = context.Event(), context.SimpleQueue()
    process = context.Process(target=answer, args=(ready, out))
    process.start()
    assert ready.wait(30)
    zbus.send("jobs", "done", "/job/1", 42)
    assert out.get() == 42
    join(process)


def pool(context: Any) -> None:
    with (
        zbus.subscribe("jobs", overflow="block") as sub,
        ProcessPoolExecutor(2, mp_context=context) as workers,
    ):
        jobs = [workers.submit(send_some, first, 100) for first in range(0, 1_000, 100)]
        assert sorted(take(sub, 1_000)) == list(range(1_000))
        assert os.getpid() not in {job.result(30) for job in jobs}


def inherited(context: Any) -> None:
    bus = zbus.Bus()
    sub = bus.subscribe("jobs")
    bus.send("jobs", "early", "/", "parent")
    process = context.Process(target=use, args=(bus,))
    process.start()
    parent, child = take(sub, 2)
    assert (parent, "belongs to the parent process" in child) == ("parent", True)
    join(process)


if __name__ == "__main__":
    globals()[sys.argv[1]](multiprocessing.get_context(sys.argv[2]))
