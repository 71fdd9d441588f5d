"""The processes of the growth cases: many subscribers, publishers, channels or topics.

    python many.py ROLE ARGUMENTS...

Each role exists twice: for raw pyzmq, as `raw_...`, and for zbus. A role says `ready` when it has found the
others, and waits for a line. At its end it reports when it began and ended (CLOCK_MONOTONIC), and how much of
the CPU its process used in between. So neither starting nor joining is part of a figure.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from peers import DATA, END, KIND, PATH, SYSTEM, await_subscribers, open_bus, raw_decode, raw_encode, report

BLOCKING_QUEUE = 1000  # what libzmq queues by default
LOSSY_QUEUE = 65_536  # the default capacity of a `drop` channel
SOCKETS = 8192
ALL_JOINED = "all-joined"  # a file by which a process with many channels tells the publisher


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def measured() -> Iterator[None]:
    """Say that this process is ready, wait until it may go on, and report what the rest takes."""
    report(ready=1)
    sys.stdin.readline()
    begin, used = time.monotonic(), cpu_seconds()
    yield
    report(begin=begin, end=time.monotonic(), cpu=cpu_seconds() - used)


def kinds_of(topics: str) -> list[str]:
    return [KIND, *(f"{KIND}.{number}" for number in range(1, int(topics)))]


def cycle(kinds: list[str], count: str) -> Iterable[str]:
    return itertools.islice(itertools.cycle(kinds), int(count))


# --- raw pyzmq

opened: list[Any] = []


def raw_open(kind: int, queue: int = BLOCKING_QUEUE) -> Any:
    context = zmq.Context.instance()
    context.set(zmq.MAX_SOCKETS, SOCKETS)
    socket = context.socket(kind)
    opened.append(socket)
    socket.set_hwm(queue)
    if kind == zmq.XPUB:
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscription shows, also to the same topic
    return socket


def raw_end() -> None:
    """Close when the receivers have ended, since closing may lose what waits in a connection."""
    sys.stdin.read()
    for socket in opened:
        # A SUB whose publisher is gone would wait forever to send its subscriptions again.
        socket.close(linger=-1 if socket.type == zmq.XPUB else 0)
    zmq.Context.instance().term()


def raw_send(socket: Any, kinds: Iterable[str]) -> None:
    for kind in kinds:
        socket.send(raw_encode(SYSTEM, kind, PATH, DATA))


def raw_fan_out(endpoint: str, subscribers: str, count: str, topics: str) -> None:
    """Send to several subscribers that connect: each topic once, and the rest measured."""
    socket = raw_open(zmq.XPUB)
    socket.bind(endpoint)
    for _ in range(int(subscribers)):
        socket.recv()
    kinds = kinds_of(topics)
    raw_send(socket, kinds)
    with measured():
        raw_send(socket, cycle(kinds, count))
    raw_send(socket, [END])
    raw_end()


def raw_subscribe(endpoint: str, topics: str) -> None:
    socket = raw_open(zmq.SUB)
    socket.subscribe(SYSTEM.encode() + b"\0")
    socket.connect(endpoint)
    read(lambda: raw_decode(socket.recv())[1], int(topics), 1)
    raw_end()


def raw_fan_in(endpoint: str, count: str) -> None:
    """Send to one subscriber that is bound, beside other publishers."""
    socket = raw_open(zmq.XPUB)
    socket.connect(endpoint)
    socket.recv()
    raw_send(socket, [KIND])
    with measured():
        raw_send(socket, itertools.repeat(KIND, int(count)))
    raw_send(socket, [END])
    raw_end()


def raw_collect(endpoint: str, publishers: str) -> None:
    socket = raw_open(zmq.SUB)
    socket.subscribe(SYSTEM.encode() + b"\0")
    socket.bind(endpoint)
    read(lambda: raw_decode(socket.recv())[1], int(publishers), int(publishers))
    raw_end()


def raw_to_channels(endpoint: str, channels: str, count: str) -> None:
    """Send to several SUBs of one process, a topic for each in turn."""
    socket = raw_open(zmq.XPUB, LOSSY_QUEUE)
    socket.bind(endpoint)
    for _ in range(int(channels)):
        socket.recv()
    kinds = kinds_of(channels)
    raw_send(socket, kinds)
    with measured():
        raw_send(socket, cycle(kinds, count))
    raw_end()


def raw_channels(endpoint: str, channels: str, count: str) -> None:
    sockets = []
    for kind in kinds_of(channels):
        sockets.append(raw_open(zmq.SUB, LOSSY_QUEUE))
        sockets[-1].subscribe(f"{SYSTEM}\0{kind}\0".encode())
        sockets[-1].connect(endpoint)
    for socket in sockets:
        raw_decode(socket.recv())
    with measured():
        for socket in itertools.islice(itertools.cycle(sockets), int(count)):
            raw_decode(socket.recv())
    raw_end()


def read(receive: Callable[[], str], first: int, ends: int) -> None:
    """Receive the first events, then measure until so many publishers have ended."""
    for _ in range(first):
        receive()
    with measured():
        while ends:
            ends -= receive() == END


# --- zbus


def await_end() -> None:
    """Wait as the raw ones do: how processes end, and who notices, is not part of what is measured."""
    sys.stdin.read()


def zbus_send(bus: Any, kinds: Iterable[str]) -> None:
    for kind in kinds:
        bus.send(SYSTEM, kind, PATH, DATA)


def zbus_publish(directory: str, subscribers: str, count: str, topics: str) -> None:
    """Send each topic once, and the rest measured."""
    with open_bus(directory) as bus:
        await_subscribers(directory, int(subscribers))
        kinds = kinds_of(topics)
        zbus_send(bus, kinds)
        with measured():
            zbus_send(bus, cycle(kinds, count))
        bus.send(SYSTEM, END, PATH)
        await_end()


def zbus_subscribe(directory: str, first: str, publishers: str) -> None:
    with open_bus(directory) as bus:
        sub = bus.subscribe(SYSTEM, overflow="block", capacity=BLOCKING_QUEUE)
        events = iter(sub)
        for _ in range(int(first)):
            next(events)
        ends = int(publishers)
        with measured():
            for evt in events:
                if evt.kind == END and not (ends := ends - 1):
                    break
        assert sub.lost == 0
        await_end()


def zbus_to_channels(directory: str, channels: str, count: str) -> None:
    with open_bus(directory) as bus:
        while not Path(directory, ALL_JOINED).exists():
            time.sleep(0.001)
        kinds = kinds_of(channels)
        zbus_send(bus, kinds)
        with measured():
            zbus_send(bus, cycle(kinds, count))
        await_end()


def zbus_channels(directory: str, channels: str, count: str) -> None:
    with open_bus(directory) as bus:
        subs = [bus.subscribe(SYSTEM, kind, capacity=LOSSY_QUEUE) for kind in kinds_of(channels)]
        Path(directory, ALL_JOINED).touch()
        each = [iter(sub) for sub in subs]
        for events in each:
            next(events)
        with measured():
            for events in itertools.islice(itertools.cycle(each), int(count)):
                next(events)
        assert not any(sub.lost for sub in subs)
        await_end()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
