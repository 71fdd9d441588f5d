"""Peers of no library: raw ZeroMQ and raw bytes, well-behaved or not."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import zmq

__all__ = ["Ingress", "Publisher", "events", "garbage", "subscriptions", "touch"]

_PATIENCE = 10.0
# What libzmq says first: signature, version 3.1, mechanism NULL, as a server or not, filler.
_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL".ljust(64, b"\0")
_READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\4XPUB"


def touch(path: Path) -> None:
    """Write the token of a roster, as everybody does who changes something."""
    with open(path / "token", "r+b") as token:
        token.write(os.urandom(8))


class Publisher:
    """An XPUB that is connected to one ingress, and has its subscriptions."""

    def __init__(self, path: Path, timeout: float = _PATIENCE) -> None:
        """Connect; raise `zmq.Again` if the subscriptions do not come within `timeout` seconds."""
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.XPUB)
        self.socket.linger = 0
        self.socket.sndtimeo = self.socket.rcvtimeo = int(timeout * 1000)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(f"ipc://{path}")
        try:
            while not self.socket.recv().startswith(b"\x01\xff"):  # the sentinel comes last
                pass
        except BaseException:
            self.close()
            raise

    def cut(self) -> bool:
        """Wait until the other side has closed the connection; return whether it has."""
        return bool(self.monitor.poll(int(_PATIENCE * 1000)))

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()
        self._context.term()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ingress:
    """An XSUB on the roster that reads whatever comes, and sends its publishers what `upstream` yields.

    Attributes:
        received: how many frames came.
        idle: set while there is nothing more to send.
    """

    def __init__(self, path: Path, topics: Iterable[bytes], ident: str, overflow: str = "drop") -> None:
        self.ident = ident
        self.received = 0
        self.idle = threading.Event()
        self._path = path
        self._overflow = overflow
        self._upstream: Iterator[bytes] = iter(())
        self._left = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XSUB)
        self._socket.sndhwm = self._socket.linger = 0
        self._socket.bind(f"ipc://{path / ident}.new")
        for topic in (*topics, f"\xff{ident}.1".encode("latin-1")):
            self._socket.send(b"\x01" + topic)
        (path / f"{ident}.new").rename(path / f"{ident}.sock")
        # Somebody must always be calling in, else libzmq does not attend to new connections.
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def announce(self) -> None:
        entry = self._path / f"{self.ident}.1.{self._overflow}"
        entry.with_suffix(".tmp").write_text("{}")
        entry.with_suffix(".tmp").rename(entry)
        touch(self._path)

    def send(self, upstream: Iterator[bytes]) -> None:
        """Begin to send frames to every publisher that is connected."""
        self.idle.clear()
        self._upstream = upstream

    def _run(self) -> None:
        while not self._left.is_set():
            if self._socket.poll(5):
                with suppress(zmq.Again):
                    while True:
                        self._socket.recv(zmq.NOBLOCK)
                        self.received += 1
            batch = list(islice(self._upstream, 100))
            for frame in batch:
                self._socket.send(frame)
            if not batch:
                self.idle.set()

    def close(self) -> None:
        """Leave the roster, then close."""
        for name in (f"{self.ident}.1.{self._overflow}", f"{self.ident}.sock"):
            (self._path / name).unlink(missing_ok=True)
        touch(self._path)
        self._left.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Ingress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mutated(rng: random.Random, good: bytes) -> bytes:
    frame = bytearray(good)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(frame) + 1)
        frame[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(frame)


def events(rng: random.Random) -> Iterator[bytes]:
    """Yield frames for a receiver: random, almost right, or right but odd."""
    good = (
        b'orders\0order.created\0/orders/1\x000123456789abcdef.%d.77\0{"total":9.5}',
        b'orders\0order.created\0\x000123456789abcdef.%d\0[["/1",{"a":1}],["/2"]]',
        b"orders\0blob\0/orders/1\x000123456789abcdef.%d\0\0\0\1\2",
    )
    odd = (
        b"",
        b"\xff" + rng.randbytes(30),
        b"a\0b\0/1\x000123456789abcdef." + b"9" * 5000 + b"\0",
        b"a\0b\0/1\0\0" + b"[" * 5000,
        b"a\0b\0\x000123456789abcdef.1\0" + b'[["/x"],' * 500,
        b"a\0b\0/1\0\0" + b"9" * 5000,
    )
    while True:
        kind = rng.randrange(10)
        if kind == 0:
            yield rng.choice(odd)
        elif kind < 4:
            yield rng.randbytes(rng.randrange(80))
        else:
            yield _mutated(rng, rng.choice(good) % rng.randrange(1 << rng.randrange(1, 64)))


def subscriptions(rng: random.Random, ident: str) -> Iterator[bytes]:
    """Yield frames for a publisher: subscriptions to nonsense, sentinels of a strange form, and worse."""
    own = f"\xff{ident}.".encode("latin-1")
    odd = (own, own + b"x", own + b"9" * 5000, own + b"-1", own + b"\xb2", b"\xff", b"\xff.", b"")
    while True:
        kind = rng.randrange(10)
        if kind == 0:
            yield rng.choice((b"\x01", b"\x00")) + rng.choice(odd)
        elif kind == 1:
            yield rng.randbytes(rng.randrange(80))
        else:
            yield rng.choice((b"\x01", b"\x00")) + rng.randbytes(rng.randrange(80))


def garbage(rng: random.Random) -> bytes:
    """Return bytes for a raw connection: nonsense at once, or after a greeting, or after a handshake."""
    lengths = b"".join(b"\x02" + rng.randbytes(8) for _ in range(3))
    start = rng.choice((b"", _GREETING[: rng.randrange(65)], _GREETING, _GREETING + _READY))
    return start + rng.choice((b"", lengths)) + rng.randbytes(rng.randrange(500))


def connect(path: Path) -> socket.socket:
    """Return a raw connection to a unix socket."""
    raw = socket.socket(socket.AF_UNIX)
    try:
        raw.connect(str(path))  # without a time-out, since that would not wait for room in the backlog
        raw.settimeout(_PATIENCE)
    except BaseException:
        raw.close()
        raise
    return raw
