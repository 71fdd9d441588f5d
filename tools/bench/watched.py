"""The processes that the commands of the command line look at.

python watched.py ROLE ARGUMENTS...
"""

from __future__ import annotations

import os
import select
import sys
import time

from peers import DATA, END, KIND, PATH, SYSTEM, await_subscribers, open_bus, report


def member(directory: str, number: str) -> None:
    """Send to three topics of its own once a second and receive that, until stdin ends."""
    with open_bus(directory) as bus:
        events = iter(bus.subscribe(f"{SYSTEM}.{number}"))
        report(ready=1)
        while not select.select([sys.stdin], [], [], 1.0)[0]:
            for topic in range(3):
                bus.send(f"{SYSTEM}.{number}", f"{KIND}.{topic}", PATH, DATA)
                next(events)


def publish(directory: str, count: str, size: str) -> None:
    """Send to whoever is there first; report the rate at which `send` took the events."""
    data = os.urandom(int(size)) if int(size) else DATA
    with open_bus(directory, size) as bus:
        await_subscribers(directory, 1)
        bus.send(SYSTEM, KIND, PATH, data)
        begin = time.perf_counter()
        for _ in range(int(count)):
            bus.send(SYSTEM, KIND, PATH, data)
        report(rate=int(count) / (time.perf_counter() - begin))
        bus.send(SYSTEM, END, PATH)


def load(directory: str, rate: str) -> None:
    """Send so many events a second to 50 topics, until stdin ends; report how many it were.

    It has reached them only if nothing held it up: `send` takes longer while others need the CPU.
    """
    with open_bus(directory) as bus:
        begin, sent = time.monotonic(), 0
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            due = int((time.monotonic() - begin) * float(rate))
            for number in range(sent, due):
                bus.send(f"load.n{number % 50}", KIND, PATH, DATA)
            sent = due
        report(rate=sent / (time.monotonic() - begin))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
