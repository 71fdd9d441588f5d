"""The documented way to end on SIGTERM: a slow consumer processes all that has come to it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import zbus

from .quiet import forwarded

EVENTS = 1_000
SECONDS = 20

THREADS = """
import signal, time, zbus

with zbus.Bus() as bus, bus.subscribe("jobs", overflow="block") as sub:
    signal.signal(signal.SIGTERM, lambda *_: sub.close())
    print("ready", flush=True)
    count = 0
    for evt in sub:
        count += 1
        time.sleep(0.001)
    print(count, flush=True)
"""
ASYNCIO = """
import asyncio, signal, time
from zbus import aio

async def main():
    async with aio.Bus() as bus, await bus.subscribe("jobs", overflow="block") as sub:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(sub.close()))
        print("ready", flush=True)
        count = 0
        async for evt in sub:
            count += 1
            await asyncio.sleep(0.001)
        print(count, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("program", [THREADS, ASYNCIO], ids=["threads", "asyncio"])
def test_a_slow_consumer_drains(bus: zbus.Bus, program: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in range(EVENTS):
        bus.send("jobs", "job", "/1", number)
    bus.flush(SECONDS)
    # All have come to its process, but some may be between its forwarder and its channel, and `close` does
    # not wait for these.
    while not forwarded(process.pid):
        pass
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, int(out)) == (0, EVENTS)
