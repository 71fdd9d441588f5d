"""A subscriber made of ZeroMQ and files by hand, as `docs/spec/roster.md` has it."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from zbus.protocol.wire import Stamp, parse_stamp

__all__ = ["TWIN", "RawSubscriber", "clock", "joined", "sentinel", "stamp_of", "touch"]


TWIN = b"\xff#"


def clock() -> int:
    """Return the time by which peers compare notes: CLOCK_MONOTONIC in microseconds (W8)."""
    return time.monotonic_ns() // 1000


def sentinel(ident: str, epoch: int) -> bytes:
    """Return the topic by which `ident` shows `epoch` (W26)."""
    return b"\xff" + f"{ident}.{epoch}".encode()


def touch(directory: Path) -> None:
    """Tell everybody that the roster changed (R11)."""
    with open(directory / "token", "r+b", buffering=0) as file:
        file.write(os.urandom(8))


def stamp_of(frame: bytes) -> Stamp:
    """Return the stamp of a frame."""
    return parse_stamp(frame.split(b"\0", 4)[3])


class RawSubscriber:
    """A bound SUB in a thread of its own, which always calls into it, and an entry that the test writes.

    Attributes:
        id: of the ingress.
        directory: of the bus.
        frames: what has arrived, except marks.
        marks, twins: the marks (W39) and their twins (W47) that have arrived.
    """

    def __init__(self, root: str | os.PathLike[str], *topics: bytes, overflow: str = "drop") -> None:
        """Listen on the bus `default` below `root` and subscribe `topics`; nobody knows before `announce`."""
        self.id = os.urandom(8).hex()
        self.directory = Path(root, "v1", "default")
        self.overflow = overflow
        self.frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.marks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.twins: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._epochs: list[int] = []
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.sndhwm = 0
        self._socket.linger = 0
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        scratch = self.directory / f"{self.id}.new"
        self._socket.bind(f"ipc://{scratch}")
        scratch.rename(self.directory / f"{self.id}.sock")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(2):
                frame = self._socket.recv()
                twin, mark = frame.startswith(TWIN), frame.split(b"\0", 4)[2:5:2] == [b"", b"[]"]
                (self.twins if twin else self.marks if mark else self.frames).put(frame)
            while not self._jobs.empty():
                future, job = self._jobs.get()
                future.set_result(job())

    def _do(self, job: Callable[[], Any]) -> None:
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        future.result(10)

    def subscribe(self, *topics: bytes) -> None:
        """Subscribe more topics, one after the other."""
        for topic in topics:
            self._do(lambda topic=topic: self._socket.setsockopt(zmq.SUBSCRIBE, topic))

    def unsubscribe(self, *topics: bytes) -> None:
        """Unsubscribe topics, one after the other."""
        for topic in topics:
            self._do(lambda topic=topic: self._socket.setsockopt(zmq.UNSUBSCRIBE, topic))

    def show(self, epoch: int) -> None:
        """Subscribe the sentinel of `epoch`."""
        self.subscribe(sentinel(self.id, epoch))

    def announce(self, epoch: int) -> None:
        """Write the entry of `epoch`, move the token, and remove the entry before it."""
        scratch = self.directory / f"{self.id}.new"
        scratch.write_text('{"process": "raw", "pid": 1}')
        scratch.rename(self._entry(epoch))
        touch(self.directory)
        for old in self._epochs:
            self._entry(old).unlink(missing_ok=True)
        self._epochs = [epoch]

    def join(self, epoch: int = 1) -> None:
        """Show `epoch` and announce it."""
        self.show(epoch)
        self.announce(epoch)

    def withdraw(self) -> None:
        """Take the entry off the roster, and listen on."""
        for epoch in self._epochs:
            self._entry(epoch).unlink(missing_ok=True)
        self._epochs = []
        touch(self.directory)

    def _entry(self, epoch: int) -> Path:
        return self.directory / f"{self.id}.{epoch}.{self.overflow}"

    def receive(self, timeout: float = 10.0) -> bytes:
        """Return the next frame."""
        return self.frames.get(timeout=timeout)

    def close(self) -> None:
        """Leave."""
        self.withdraw()
        self._stop.set()
        self._thread.join(10)
        self._socket.close()
        self._context.term()
        (self.directory / f"{self.id}.sock").unlink(missing_ok=True)


@contextmanager
def joined(root: str, *topics: bytes, overflow: str = "drop") -> Iterator[RawSubscriber]:
    """Have a raw subscriber of `topics` that has joined, for a while."""
    raw = RawSubscriber(root, *topics, overflow=overflow)
    try:
        raw.join()
        yield raw
    finally:
        raw.close()
