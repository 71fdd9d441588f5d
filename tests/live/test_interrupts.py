"""An interrupt may come between any two steps, and everything goes on to work after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import zbus

from .process import directory, receive

ROUNDS = 900


class Interrupt(BaseException):
    """What Ctrl-C would be."""


class Interrupts:
    """Signals at random moments, from another process, which needs no GIL of ours to send one."""

    PROGRAM = """
import os, random, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(random.random() * 4e-4)
    os.kill(int(sys.argv[1]), int(sys.argv[2]))
"""

    def __init__(self) -> None:
        self._armed = False
        self._before = signal.signal(signal.SIGUSR1, self._handle)
        command = [sys.executable, "-c", self.PROGRAM, str(os.getpid()), str(int(signal.SIGUSR1))]
        self._process = subprocess.Popen(command)

    def _handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise Interrupt

    def repeat(self, use: Callable[[], object]) -> None:
        """Call `use` over and over until an interrupt ends it."""
        try:
            while True:
                self._armed = True  # again, since pyzmq loses one now and then with CPython 3.13
                use()
        except Interrupt:
            return

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    made = Interrupts()
    yield made
    made.close()


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_sends_that_are_interrupted(bus: zbus.Bus, interrupts: Interrupts, overflow: str) -> None:
    sub = bus.subscribe("a", overflow=overflow, capacity=100_000)
    reader = threading.Thread(target=lambda: [None for _ in sub])
    reader.start()
    with zbus.Bus(dir=directory(bus).parents[1]) as sender:
        sender.send("a", "b", "/1")
        for _ in range(ROUNDS):
            interrupts.repeat(lambda: sender.send("a", "b", "/1"))
        other = threading.Thread(target=sender.send, args=("a", "b", "/1"), kwargs={"timeout": 5})
        other.start()
        other.join(10)
        assert not other.is_alive()
        sender.send_many("a", "b", [("/1", None)])
        if overflow == "block":
            assert sub.lost == 0  # a number that was taken was sent
    sub.close()
    reader.join(10)
    assert not reader.is_alive()


@pytest.mark.parametrize("how", ["receive", "receive with a timeout", "iterate", "select"])
@pytest.mark.parametrize("overflow", ["drop", "latest"])
def test_receives_that_are_interrupted(
    bus: zbus.Bus, interrupts: Interrupts, overflow: str, how: str
) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    channel = sub.channel()
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            bus.send("a", "b", "/1")
            stop.wait(1e-4)

    feeder = threading.Thread(target=feed)
    feeder.start()
    uses: dict[str, Callable[[], object]] = {
        "receive": channel.receive,
        "receive with a timeout": lambda: channel.receive(timeout=5),
        "iterate": lambda: next(iter(sub)),
        "select": lambda: zbus.select(channel, timeout=5),
    }
    for _ in range(ROUNDS // 3):
        interrupts.repeat(uses[how])
    got: list[zbus.Event] = []
    other = threading.Thread(target=lambda: got.append(receive(sub)))
    other.start()
    other.join(10)
    assert got
    stop.set()
    feeder.join()


def test_a_signal_handler_that_sends_or_receives_amid_the_same_is_told_so(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    refused: list[zbus.Unavailable] = []

    def handler(*_: object) -> None:
        for use in (
            lambda: sub.channel().receive(timeout=5),
            lambda: zbus.select(sub.channel(), timeout=5),
        ):
            with pytest.raises(zbus.Unavailable, match="a signal handler cannot receive") as caught:
                use()
            refused.append(caught.value)
        bus.send("a", "b", "/from/the/handler")

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGUSR1])
    timer.start()
    try:
        assert receive(sub).path == "/from/the/handler"
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 2
    full = bus.subscribe("full", overflow="block", capacity=2)
    said: list[str] = []

    def send(*_: object) -> None:
        with pytest.raises(zbus.Unavailable, match="a signal handler cannot send") as caught:
            bus.send("full", "b", "/1")
        said.append(caught.value.message)

    signal.signal(signal.SIGUSR1, send)
    timer = threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(zbus.Timeout):
            while not said:
                bus.send("full", "b", "/1", timeout=0.5)
            raise zbus.Timeout("it was told")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert said
    assert full.lost == 0


def test_a_close_amid_signals_leaves_nothing_open(zbus_dir: str, interrupts: Interrupts) -> None:
    """pyzmq would give up the end of a context at the first signal, and leave it with its threads."""
    for number in range(30):
        with zbus.Bus(dir=zbus_dir) as bus, bus.subscribe("a") as sub:
            bus.send("a", "b", "/1", number)
            assert receive(sub).data == number
