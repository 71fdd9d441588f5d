"""Processes that fork, and one whose clock is set."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zbus
from tests.live.workers import tell, told

from .streams import KIND, SYSTEM

__all__ = ["clocked", "forker"]


def forker(forks: str) -> None:
    """Fork while a thread sends; each child tries what it inherited, then buses of its own."""
    stop = threading.Event()
    sent = 0

    def stream() -> None:
        nonlocal sent
        while not stop.wait(0 if sent % 100 else 0.005):
            sent += 1
            zbus.send(SYSTEM, KIND, "/n", [sent, ""])

    bus = zbus.Bus()
    sub = bus.subscribe("mine")
    bus.send("mine", "k", "/1")
    tell(ready=True)
    told()
    thread = threading.Thread(target=stream)
    thread.start()
    children = [forked(bus, sub) for _ in range(int(forks))]
    stop.set()
    thread.join()
    sent += 1
    zbus.send(SYSTEM, KIND, "/end", [sent, ""])
    evt, _ = sub.channel().receive(timeout=5)  # sent before the forks, not taken by a child
    bus.send("mine", "k", "/2")
    paths = [evt and evt.path, next(iter(sub)).path]
    tell(sent=sent, children=children, paths=paths)
    told()


def forked(bus: zbus.Bus, sub: zbus.Subscription) -> dict[str, Any]:
    """Fork; return what the child reports, or that it hung."""
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that is what this is about
        child = os.fork()
    if not child:
        warnings.simplefilter("ignore")  # of the parent's sockets, which are not the child's to close
        os.write(into, json.dumps(in_a_child(bus, sub)).encode())
        sys.exit(0)
    os.close(into)
    hung = not select.select([out], [], [], 10)[0]
    if hung:
        os.kill(child, signal.SIGKILL)
    text = b"" if hung else os.read(out, 1 << 16)
    os.close(out)
    _, status = os.waitpid(child, 0)
    return {"hung": hung, "status": status, **json.loads(text or b"{}")}


def in_a_child(bus: zbus.Bus, sub: zbus.Subscription) -> dict[str, Any]:
    kinds = []
    for use in (
        lambda: bus.send("mine", "k", "/child"),
        lambda: bus.subscribe("mine"),
        lambda: sub.channel().receive(timeout=5),
    ):
        try:
            use()
            kinds.append("")
        except Exception as error:
            kinds.append(type(error).__name__)
    bus.close()
    start = time.monotonic()
    with zbus.Bus() as own:
        ours = own.subscribe("child")
        zbus.send("child", "k", "/1")  # by the default bus, which a thread of the parent is using
        path = next(iter(ours)).path
    return {"kinds": kinds, "took": time.monotonic() - start, "path": path}


def clocked() -> None:
    """Report how long time-outs take, by the monotonic clock, while somebody sets the clock."""

    def timed(what: str, wait: Callable[[], object]) -> None:
        wall = time.time()
        start, error = time.monotonic(), ""
        tell(begins=what)
        try:
            wait()
        except zbus.Error as caught:
            error = caught.kind
        took = time.monotonic() - start
        tell(took=took, jumped=time.time() - wall - took, error=error)

    bus = zbus.Bus(join_timeout=1, linger=1)
    sub = bus.subscribe("nothing")
    tell(ready=True)
    told()
    bus.send("stuck", "k", "/linked")
    tell(linked=True)
    told()  # that it is stopped
    with suppress(zbus.Timeout):
        while True:
            bus.send("stuck", "k", "/fill", timeout=0.05)
    timed("receive", lambda: sub.channel().receive(timeout=1))
    timed("send", lambda: bus.send("stuck", "k", "/1", timeout=1))
    told()  # that somebody who does not answer has joined
    timed("join", lambda: bus.send("other", "k", "/1", timeout=30))
    timed("close", bus.close)
    told()
