"""A thread that consumes, and is no daemon, does not keep its program from ending: it drains and leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zbus

from .process import receive

SECONDS = 20.0  # it takes milliseconds; the rest is for a busy machine, and for Python to end
EVENTS = 500
CHECKOUT = Path(__file__).parents[2]

# The thread takes its time, so that most is still buffered when the main thread ends.
PRELUDE = """
import asyncio, atexit, os, signal, sys, threading, time, zbus
from tests.live.quiet import forwarded

def took(count):
    zbus.send("jobs", "took", "/", count)  # after the main thread has ended, and before `atexit`

atexit.register(lambda: zbus.send("jobs", "atexit", "/"))
"""
FILL = f"""
for number in range({EVENTS}):
    bus.send("own", "k", "/", number)
bus.flush()
while not forwarded(os.getpid()):
    pass  # `close` does not wait for what is between a forwarder and its channel
print("ready", flush=True)
"""

CONSUMERS = {
    "iteration": """
def consume():
    count = 0
    for evt in sub:
        count += 1
        time.sleep(0.0005)
    took(count)
bus = zbus.Bus(); sub = bus.subscribe("own"); threading.Thread(target=consume).start()
""",
    "receive": """
def consume():
    count = 0
    while sub.channel().receive()[1]:
        count += 1
        time.sleep(0.0005)
    took(count)
bus = zbus.Bus(); sub = bus.subscribe("own", overflow="block"); threading.Thread(target=consume).start()
""",
    "select": """
def consume():
    count = 0
    while zbus.select(sub.channel())[2]:
        count += 1
    took(count)
bus = zbus.Bus(); sub = bus.subscribe("own"); threading.Thread(target=consume).start()
""",
    "an executor that comes later": """
def consume():
    took(sum(1 for _ in sub))
bus = zbus.Bus(); sub = bus.subscribe("own")
from concurrent.futures import ThreadPoolExecutor
job = ThreadPoolExecutor(1).submit(consume)
""",
    "asyncio": """
async def consume(ready):
    global bus
    other = zbus.aio.Bus()
    count = 0
    async with await other.subscribe("own") as sub:
        ready.set()
        async for evt in sub:
            count += 1
    took(count)
bus = zbus.Bus()
ready = threading.Event()
threading.Thread(target=lambda: asyncio.run(consume(ready))).start()
ready.wait()
""",
}
ENDS = {
    "main returns": "",
    "SIGTERM": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
while True:
    time.sleep(0.1)  # for ever would miss a signal that comes just before
""",
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_it_drains_and_the_program_ends(bus: zbus.Bus, zbus_dir: str, consumer: str, how: str) -> None:
    sub = bus.subscribe("jobs")
    program = PRELUDE + CONSUMERS[consumer] + FILL + ENDS[how]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert process.stdout is not None
    for _ in range(2 if ENDS[how] else 1):
        assert process.stdout.readline() == "ready\n"
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    first, second = receive(sub), receive(sub)
    assert (first.kind, first.data, second.kind) == ("took", EVENTS, "atexit")
    bus.close()
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]


def test_nobody_subscribes_after_that(zbus_dir: str) -> None:
    program = """
import threading, zbus

def late():
    threading.main_thread().join()
    try:
        zbus.subscribe("a")
    except zbus.Canceled as error:
        print(error)

zbus.subscribe("b")
threading.Thread(target=late).start()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    assert ended.stdout == "the program is about to end: subscribe before its main thread does\n"
