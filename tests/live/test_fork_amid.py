"""Forks amid whatever other threads of the parent do with zbus: the child works, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zbus

AMID = """
import gc, os, sys, threading, time, warnings
from contextlib import suppress
if {garbage}:  # before zbus does anything in the child
    os.register_at_fork(after_in_child=gc.collect)
import zbus

warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of fork with threads
stop = threading.Event()

def again_and_again(call):
    while not stop.is_set():
        with suppress(zbus.Canceled, zbus.Timeout):  # closed meanwhile, or held up by other children
            call()

def subscribe():
    for overflow in ("drop", "block", "latest"):
        with zbus.subscribe("x", overflow=overflow):
            pass

def open_and_close():
    with zbus.Bus() as bus:
        bus.send("a", "b", "/bus")

def drop():
    bus = zbus.Bus()
    bus.send("a", "b", "/dropped")
    bus.subscribe("x").itself = bus  # garbage that refers to itself

def close():
    stop.wait(0.01)
    zbus.close()

def child(number):
    zbus.send("a", "b", "/child", number, timeout=30)
    with zbus.subscribe("c") as sub:
        zbus.send("c", "b", "/child", number, timeout=30)
        while sub.channel().receive(timeout=30)[0].data != number:
            pass
    zbus.close()
    zbus.send("a", "b", "/child", number, timeout=30)
    if number % 2:
        sys.exit(0)  # as a program that comes to its end
    zbus.close()
    os._exit(0)

calls = [lambda: zbus.send("a", "b", "/thread"), subscribe, open_and_close, drop, close]
threads = [threading.Thread(target=again_and_again, args=(call,)) for call in calls]
for thread in threads:
    thread.start()
for number in range({count}):
    pid = os.fork()
    if not pid:
        child(number)
    deadline = time.monotonic() + 40
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            ended = os.waitpid(pid, 0)
            print("hung:", number, flush=True)
            break
        time.sleep(0.001)
    print(ended[1], flush=True)
stop.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("garbage", [False, True])
def test_forks_amid_what_other_threads_do(zbus_dir: str, garbage: bool) -> None:
    """They open, send, subscribe, drop and close, and are anywhere in it."""
    count = 30
    program = AMID.format(count=count, garbage=garbage)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0"] * count, "")
    zbus.Bus(dir=zbus_dir).close()
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]
