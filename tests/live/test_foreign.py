"""Foreign peers: what any ZeroMQ program may send to our sockets."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import zmq

import zbus

from .quiet import read_all


class Foreign:
    """A raw publisher that is connected to the only ingress of the bus."""

    def __init__(self, zbus_dir: str) -> None:
        (path,) = Path(zbus_dir, "v1", "default").glob("*.sock")
        self.path = path
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.linger = 10_000
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.connect(f"ipc://{path}")
        while not self.socket.recv().startswith(b"\x01\xff"):  # the sentinel comes last
            pass

    def send_aged(self, ages: Iterable[float]) -> None:
        """Send an event for each age, that says that it was sent so many seconds ago; numbers are from 1."""
        for number, age in enumerate(ages, 1):
            stamp = f"0123abcd.{number}....{(time.time() - age) * 1e6:.0f}"
            self.socket.send(f"a\0b\0/{number}\0{stamp}\0{number}".encode())

    def close(self) -> None:
        self.socket.close()
        self.context.term()


@pytest.fixture
def everything(bus: zbus.Bus) -> zbus.Subscription:
    return bus.subscribe("*", capacity=200_000)


@pytest.fixture
def foreign(everything: zbus.Subscription, zbus_dir: str) -> Iterator[Foreign]:
    peer = Foreign(zbus_dir)
    yield peer
    peer.close()


def test_the_plainest_frame_is_an_event(foreign: Foreign, everything: zbus.Subscription) -> None:
    foreign.socket.send(b'orders\0order.created\0/orders/1\0\0{"total":9.5}')
    evt, _ = everything.channel().receive(timeout=30)
    assert evt == zbus.Event("orders", "order.created", "/orders/1", {"total": 9.5})
    assert (evt.origin, evt.seq, evt.time) == ("", 0, None)


def test_the_time_is_what_a_peer_tells_or_none(foreign: Foreign, everything: zbus.Subscription) -> None:
    # The decoder has short cuts for all but the first frame of a stream.
    told = {
        "....1764192207000001": 1764192207.000001,
        ".5.6.1.0": 0.0,
        ".5.6.1.9999999999999999999": 9999999999999.999999,
        ".5.6.1.1764192207000001.zone=eu": 1764192207.000001,
        "": None,
        ".5.6.1": None,
        ".5.6.1.": None,
        ".5.6.1.-1": None,
        ".5.6.1.17641922070000000001": None,
        ".5.6.1.soon": None,
    }
    for number, rest in enumerate(told):
        for seq in (1, 2):
            foreign.socket.send(f"a\0k{number}\0/1\x000123abcd.{seq}{rest}\x001".encode())
        foreign.socket.send(f'a\0k{number}\0\x000123abcd.3{rest}\0[["/2",1],["/3",2]]'.encode())
    times = [everything.channel().receive(timeout=30)[0].time for _ in range(4 * len(told))]
    assert times == [time for time in told.values() for _ in range(4)]
    assert everything.lost == everything.channel().malformed == 0


def test_malformed_frames_are_skipped_and_counted(
    foreign: Foreign, everything: zbus.Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    for frame in (
        b"",
        b"a",
        b"a\0b\0c\0d",
        b"a\0b\0/1\0\0{",
        b"\xfe\0b\0/1\0\0",
        b"a.*\0b\0/1\0\0",
        b"a\0b\0\0\0{}",
    ):
        foreign.socket.send(frame)
    foreign.socket.send(b"a\0b\0/good\0\0")
    evt, _ = everything.channel().receive(timeout=30)
    assert evt is not None
    assert evt.path == "/good"
    assert everything.channel().malformed == 7
    assert [peer.counters["malformed"] for peer in zbus.peers() if peer.counters] == [7]
    assert sum("malformed" in record.message for record in caplog.records) == 1


def mutations(count: int) -> Iterator[bytes]:
    rng = random.Random(20261124)
    good = [
        b'orders\0order.created\0/orders/1\x000123456789abcdef.%d.77\0{"total":9.5}',
        b'orders\0order.created\0\x000123456789abcdef.%d\0[["/1",{"a":1}],["/2"]]',
        b"orders\0blob\0/orders/1\x000123456789abcdef.%d\0\0\0\1\2",
    ]
    for number in range(count):
        if number % 3 == 0:
            yield rng.randbytes(rng.randrange(80))
            continue
        frame = bytearray(rng.choice(good) % rng.randrange(1 << rng.randrange(1, 64)))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(frame) + 1)
            frame[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        yield bytes(frame)


def test_100_000_random_and_mutated_frames_harm_nobody(
    foreign: Foreign, everything: zbus.Subscription, bus: zbus.Bus
) -> None:
    neighbour = bus.subscribe("neighbour", overflow="block")
    sent = 0
    for index, frame in enumerate(mutations(100_000)):
        foreign.socket.send(frame)
        if index % 100 == 0:
            sent += 1
            bus.send("neighbour", "k", "/1", sent)
    foreign.socket.send(b"the\0end\0/1\0\0")
    assert [next(iter(neighbour)).data for _ in range(sent)] == list(range(1, sent + 1))
    assert neighbour.lost == neighbour.channel().malformed == 0
    mine = 0
    for evt in everything:
        mine += evt.system == "neighbour"
        if evt.system == "the":
            break
    assert mine == sent
    assert everything.channel().malformed > 30_000


def test_raw_bytes_to_the_socket_harm_nobody(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a")
    (path,) = Path(zbus_dir, "v1", "default").glob("*.sock")
    rng = random.Random(1)
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.send(rng.randbytes(rng.randrange(1, 500)))
    bus.send("a", "b", "/1")
    assert sub.channel().receive(timeout=30)[1]
    assert sub.lost == 0


def test_an_oversized_foreign_frame_is_cut_and_everybody_else_goes_on(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, max_event_bytes=10_000) as bus:
        sub = bus.subscribe("a")
        peer = Foreign(zbus_dir)
        peer.socket.send(b"a\0b\0/big\0\0\0" + bytes(20_000))
        bus.send("a", "b", "/ours")
        evt, _ = sub.channel().receive(timeout=30)
        assert evt is not None
        assert evt.path == "/ours"
        assert read_all(sub) == []
        peer.socket.linger = 0
        peer.close()


def test_a_foreign_subscriber_gets_what_it_asks_for(bus: zbus.Bus, zbus_dir: str) -> None:
    """A peer in any language: bind, listen, announce, show the sentinel. Here with nothing but pyzmq."""
    directory = Path(zbus_dir, "v1", "default")
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.sndhwm = 0
    sub.linger = 0
    ident = "feedfacefeedface"
    sub.bind(f"ipc://{directory}/{ident}.new")
    sub.subscribe(b"orders\0")
    sub.subscribe(b"\xff" + f"{ident}.1".encode())
    (directory / f"{ident}.new").rename(directory / f"{ident}.sock")
    (directory / f"{ident}.1.drop").write_text('{"process":"probe","pid":1,"language":"c"}')
    (directory / "token").write_bytes(b"anything")
    poller = zmq.Poller()
    poller.register(sub, zmq.POLLIN)
    # A bound SUB attends to new peers only while its owner calls in, so the sender needs a thread of its own.
    import threading

    sender = threading.Thread(target=bus.send, args=("orders", "order.created", "/1", {"a": 1}))
    sender.start()
    assert poller.poll(5000)
    assert sub.recv().startswith(b"orders\0order.created\0/1\0")
    sender.join()
    for path in directory.glob(f"{ident}.*"):
        path.unlink()
    sub.close()
    context.term()
