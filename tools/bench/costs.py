"""The processes that measure what one call, or being idle, costs a process.

python costs.py ROLE ARGUMENTS...
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from peers import DATA, END, KIND, PATH, SYSTEM, await_subscribers, open_bus, report

TURN = 500  # events of one kind of data before it is the other's turn


def thread_us(bus: Any, data: Any, batch: bool) -> float:
    """Send a turn's events; return the CPU time of this thread for each, in microseconds."""
    items = [(PATH, data)] * TURN
    begin = time.thread_time()
    if batch:
        bus.send_many(SYSTEM, KIND, items)
    else:
        for path, value in items:
            bus.send(SYSTEM, KIND, path, value)
    return (time.thread_time() - begin) / TURN * 1e6


def nulls(directory: str, turns: str) -> None:
    """Send data with a 0 and the same data with a null in turn; report the ratio of what they cost."""
    flat = [DATA | {"discount": value} for value in (0, None)]
    nested = [{"id": "123", "items": [{"sku": "4711", "rebate": value}] * 4} for value in (0, None)]
    ratios = {}
    with open_bus(directory) as bus:
        await_subscribers(directory, 1)
        for name, datas, batch in (("flat", flat, False), ("nested", nested, False), ("batch", flat, True)):
            times = [[thread_us(bus, data, batch) for data in datas] for _ in range(int(turns))]
            zero, null = (statistics.median(column) for column in zip(*times, strict=True))
            ratios[name] = null / zero
    report(**ratios)


def idle_publisher(directory: str) -> None:
    """Send once, and then only keep the bus open."""
    with open_bus(directory) as bus:
        await_subscribers(directory, 1)
        bus.send(SYSTEM, KIND, PATH, DATA)
        report(ready=1)
        sys.stdin.readline()
        bus.send(SYSTEM, END, PATH)


def idle_subscriber(directory: str) -> None:
    """Receive once, and wait for what comes at the end of the other's idleness."""
    with open_bus(directory) as bus:
        events = iter(bus.subscribe(SYSTEM))
        next(events)
        report(ready=1)
        next(events)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
