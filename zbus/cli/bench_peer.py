"""What `zbus bench` measures: events between two processes, by zbus and by raw pyzmq.

    python -m zbus.cli.bench_peer BUS DIR SIZE

is the process at the other end. Both go through the same rounds in the same order, so that it needs no
commands. It ends when its stdin does, and removes the bus then, in case the command was killed.

Raw pyzmq is used as one would for the same purpose: one frame an event, JSON by orjson, decoded fields,
back-pressure, and queues of the same length.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zmq

import zbus

from ..roster.location import locate
from ..runtime.threads import start

__all__ = ["COMMAND", "DATA", "END", "PEER", "WAYS", "Way", "main", "opened", "turn"]

WAYS = ("pyzmq", "zbus")
COMMAND, PEER = "command", "peer"
DATA, END = "data", "end"

_PATH = "/bench/1"
# How far a publisher may be ahead, for both: libzmq's own default, or less of large events.
_QUEUE, _QUEUE_BYTES, _LEAST_QUEUE = 1000, 64_000_000, 4
# Who says nothing for so long is stuck.
_SILENT_MS = 60_000


class Way(NamedTuple):
    """One way to exchange events with the other process.

    Attributes:
        send: sends an event: its kind and its data.
        received: yields the kind and the data of each event.
    """

    send: Callable[[str, Any], object]
    received: Iterator[tuple[str, Any]]


def turn(ways: tuple[Way, Way], number: int) -> list[tuple[int, Way]]:
    """Return both ways with their index in `WAYS`, in the order of a round: each is first in turn."""
    both = [*enumerate(ways)]
    return both[::-1] if number % 2 else both


@contextmanager
def opened(bus: zbus.Bus, place: Path, ends: tuple[str, str], size: int) -> Iterator[tuple[Way, Way]]:
    """Yield both ways, as in `WAYS`, once the other process has opened them too.

    Args:
        bus: the bus of this process.
        place: its directory, where the sockets of raw pyzmq are as well.
        ends: names of this end and of the other.
        size: bytes of an event, about.
    """
    # The command reads nothing while it sends as much as it can. With `block`, its queue would fill with the
    # fillers that follow large events, and stop it.
    overflow: zbus.Overflow = "block" if ends[0] == PEER else "drop"
    queue = max(_LEAST_QUEUE, min(_QUEUE, _QUEUE_BYTES // (size + 1)))
    with (
        zmq.Context() as context,
        context.socket(zmq.XPUB) as publisher,
        context.socket(zmq.SUB) as subscriber,
        bus.subscribe(ends[1], overflow=overflow, capacity=queue) as subscription,
    ):
        for socket in (publisher, subscriber):
            socket.set_hwm(queue)
            socket.set(zmq.RCVTIMEO, _SILENT_MS)
            socket.set(zmq.SNDTIMEO, _SILENT_MS)
            socket.set(zmq.LINGER, 0)
        publisher.set(zmq.XPUB_NODROP, 1)
        publisher.bind(f"ipc://{place / ends[0]}")
        subscriber.subscribe(ends[1].encode() + b"\0")
        subscriber.connect(f"ipc://{place / ends[1]}")
        publisher.recv()
        # Nobody gets this. But the first send waits for the queues of both ends, which are empty now.
        bus.send(f"{ends[0]}.ready", DATA, _PATH)
        yield _by_pyzmq(publisher, subscriber, ends[0]), _by_zbus(bus, subscription, ends[0])


def _by_pyzmq(publisher: zmq.Socket[bytes], subscriber: zmq.Socket[bytes], system: str) -> Way:
    def send(kind: str, data: Any) -> None:
        publisher.send(b"\0".join((system.encode(), kind.encode(), _PATH.encode(), orjson.dumps(data))))

    def received() -> Iterator[tuple[str, Any]]:
        while True:
            names = subscriber.recv().split(b"\0", 3)
            _, kind, _, data = (*map(bytes.decode, names[:3]), orjson.loads(names[3]))
            yield kind, data

    return Way(send, received())


def _by_zbus(bus: zbus.Bus, subscription: zbus.Subscription, system: str) -> Way:
    def send(kind: str, data: Any) -> None:
        bus.send(system, kind, _PATH, data, timeout=_SILENT_MS / 1000)

    def received() -> Iterator[tuple[str, Any]]:
        for event in subscription:
            yield event.kind, event.data

    return Way(send, received())


def main(name: str, directory: str, size: int) -> None:
    """Be the other end of all rounds."""
    place = locate(Path(directory), name)
    start("zbus-bench", _end_with_stdin, place)
    with (
        zbus.Bus(name, dir=directory, linger=0.0) as bus,
        opened(bus, place, (PEER, COMMAND), size) as ways,
    ):
        for number in count():
            for _, way in turn(ways, number):
                os.write(sys.stdout.fileno(), b"%r\n" % _rate(way))
            for _, way in turn(ways, number):
                _send_back(way)


def _rate(way: Way) -> float:
    """Return how many events a second arrive until the one that ends the round."""
    next(way.received)
    begun, number = time.perf_counter(), 0
    for kind, _ in way.received:
        if kind == END:
            break
        number += 1
    return number / (time.perf_counter() - begun)


def _send_back(way: Way) -> None:
    for kind, data in way.received:
        way.send(kind, data)
        if kind == END:
            return


def _end_with_stdin(place: Path) -> None:
    sys.stdin.read()
    shutil.rmtree(place, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
