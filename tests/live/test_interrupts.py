"""An interrupt may come between any two steps, and everything goes on to work after it."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

import zbus

from .conftest import receive

ROUNDS = 3_000


class Interrupt(BaseException):
    """What Ctrl-C would be."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Give a function that has the main thread interrupted within a millisecond."""

    def handler(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    asked, stop = threading.Semaphore(0), threading.Event()
    dice = random.Random(1)

    def run() -> None:
        while asked.acquire() and not stop.is_set():
            stop.wait(dice.random() * 5e-4)
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=run)
    thread.start()
    yield asked.release
    stop.set()
    asked.release()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


def until_interrupted(use: Callable[[], object], interrupt: Callable[[], None]) -> None:
    with pytest.raises(Interrupt):
        interrupt()
        while True:
            use()


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_sends_that_are_interrupted(bus: zbus.Bus, interrupt: Callable[[], None], overflow: str) -> None:
    sub = bus.subscribe("a", overflow=overflow, capacity=100_000)
    reader = threading.Thread(target=lambda: [None for _ in sub])
    reader.start()
    with zbus.Bus(dir=bus._node.path.parents[1]) as sender:
        sender.send("a", "b", "/1")
        for _ in range(ROUNDS):
            until_interrupted(lambda: sender.send("a", "b", "/1"), interrupt)
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
    bus: zbus.Bus, interrupt: Callable[[], None], overflow: str, how: str
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
        until_interrupted(uses[how], interrupt)
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
    assert full.lost == 0
