"""Ends: of a channel, a subscription, a bus and a process, in any order and from anywhere."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zbus

from .process import receive
from .quiet import quiet


def test_a_closed_channel_gives_what_it_had_then_none_and_false(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    channel = sub.channel()
    bus.send("a", "b", "/1", 1)
    bus.send_many("a", "b", [("/2", 2), ("/3", 3)])
    assert receive(sub).data == 1
    assert receive(sub).data == 2
    sub.close()
    sub.close()
    bus.send("a", "b", "/4", 4)
    assert sub.channel() is channel
    assert [evt.data for evt in channel] == [3]
    assert channel.receive() == (None, False)
    assert channel.receive(timeout=1) == (None, False)
    assert list(sub) == []


@pytest.mark.parametrize("how", ["iterate", "receive", "receive with a timeout"])
@pytest.mark.parametrize("overflow", ["drop", "block"])
@pytest.mark.parametrize("end", ["sub", "bus"])
def test_close_wakes_a_blocked_receiver(bus: zbus.Bus, how: str, overflow: str, end: str) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    got: list[Any] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        if how == "iterate":
            got.extend(sub)
        else:
            got.append(sub.channel().receive(*([30] if "timeout" in how else [])))

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    start = time.monotonic()
    (sub if end == "sub" else bus).close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - start < 5
    assert got == ([] if how == "iterate" else [(None, False)])


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_a_closed_channel_wakes_its_receiver_at_once(
    bus: zbus.Bus, overflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its barrier: a receiver looks at the time once a second only, and here not even then."""
    monkeypatch.setattr("zbus.receiving.queue.WAIT_MS", 60_000)
    sub = bus.subscribe("a", overflow=overflow)
    thread = threading.Thread(target=list, args=(sub,))
    thread.start()
    while not quiet():  # the thread among others: it waits
        pass
    sub.close()
    thread.join(20)
    assert not thread.is_alive()


def test_closing_the_bus_leaves_buffered_events_receivable(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    for number in range(100):
        bus.send("a", "b", "/1", number)
    assert receive(sub).data == 0
    events = iter(sub)
    assert next(events).data == 1
    bus.close()
    bus.close()
    rest = [evt.data for evt in events]
    assert rest == list(range(2, 2 + len(rest)))
    assert sub.channel().receive() == (None, False)


def test_use_after_close_is_canceled(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1")
    bus.close()
    for use in (
        lambda: bus.send("a", "b", "/1"),
        lambda: bus.send("a", "b", "/1", timeout=1),
        lambda: bus.send_many("a", "b", [("/1", 1)]),
        lambda: bus.subscribe("a"),
    ):
        with pytest.raises(zbus.Canceled, match="is closed: open a new one") as caught:
            use()
        assert caught.value.kind == zbus.errors.CANCELED
        assert not caught.value.retryable
    assert bus.closed


def test_with_closes_bus_and_subscription(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus, bus.subscribe("a") as sub:
        bus.send("a", "b", "/1")
        assert receive(sub).path == "/1"
    assert bus.closed
    assert list(sub) == []


def test_300_cycles_leave_threads_descriptors_and_files_as_they_were(bus: zbus.Bus, zbus_dir: str) -> None:
    def footprint() -> tuple[int, int, int]:
        files = list(Path(zbus_dir, "v1", "default").iterdir())
        return threading.active_count(), len(os.listdir("/proc/self/fd")), len(files)

    def cycle(number: int) -> None:
        with bus.subscribe("a", overflow=("drop", "block")[number % 2]) as sub:
            bus.send("a", "b", "/1", number)
            while receive(sub).data != number:  # the one before may be in flight towards this process
                assert number

    cycle(0)
    cycle(1)
    before = footprint()
    for number in range(300):
        cycle(number)

    def grown() -> bool:
        return any(now > then for now, then in zip(footprint(), before, strict=True))

    # libzmq closes the descriptors of closed sockets in a thread of its own, shortly after.
    deadline = time.monotonic() + 10
    while grown() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert not grown(), (footprint(), before)


@pytest.mark.parametrize("end", ["sub", "bus"])
@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_a_signal_handler_may_close_what_its_thread_waits_for(bus: zbus.Bus, end: str, overflow: str) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    before = signal.signal(signal.SIGALRM, lambda *_: (sub if end == "sub" else bus).close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert list(sub) == []
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_forked_child_gets_an_error_at_once_and_the_parent_loses_nothing(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1", 1)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for use in (lambda: bus.send("a", "b", "/1", 2), lambda: bus.subscribe("a"), lambda: list(sub)):
                try:
                    use()
                except zbus.Canceled as error:
                    assert "parent process" in error.message
                else:
                    raise AssertionError
            bus.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    bus.send("a", "b", "/1", 3)
    assert [receive(sub).data for _ in range(2)] == [1, 3]


def test_a_program_that_ends_without_closing_delivers_and_cleans_up(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a")
    program = "import zbus; b = zbus.Bus(); s = b.subscribe('x'); b.send('a', 'b', '/1', 'last words')"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert time.monotonic() - start < 10
    assert done.stderr == ""
    assert receive(sub).data == "last words"
    assert len(list(Path(zbus_dir, "v1", "default").glob("*.member"))) == 1


def test_a_subscription_and_its_bus_may_close_at_the_same_time(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block")
    queue = sub.channel()._source.queue
    woken, go_on = threading.Event(), threading.Event()
    wake = queue._wake

    def late() -> None:
        if threading.current_thread() is closing:
            woken.set()
            go_on.wait(10)
        wake()

    queue._wake = late
    closing = threading.Thread(target=sub.close)
    closing.start()
    assert woken.wait(10)  # begun, and not yet at the socket
    ending = threading.Thread(target=bus.close)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_a_subscription_that_is_dropped_closes_itself(bus: zbus.Bus, overflow: str) -> None:
    def listening() -> list[list[tuple[str, str]]]:
        return [peer.patterns for peer in zbus.peers() if peer.role == "subscriber" and peer.patterns]

    sub = bus.subscribe("a", overflow=overflow, capacity=10)
    channel = sub.channel()
    del sub
    assert listening() == [[("a", "*")]]  # the channel is enough
    bus.send("a", "b", "/1")
    assert channel.receive(timeout=30)[1]
    del channel
    assert listening() == []
    for _ in range(5_000):
        bus.send("a", "b", "/1", timeout=5.0)  # nobody is full


def test_subscriptions_that_are_dropped_in_a_cycle_close_amid_others(bus: zbus.Bus) -> None:
    for _ in range(200):
        loop: list[Any] = [bus.subscribe("a"), bus.subscribe("b", overflow="block")]
        loop.append(loop)
    del loop
    gc.collect()
    sub = bus.subscribe("c")
    assert [peer.patterns for peer in zbus.peers() if peer.role == "subscriber"] == [[("c", "*")]]
    bus.send("c", "b", "/1")
    assert receive(sub).path == "/1"


def test_a_signal_handler_may_close_the_bus_that_its_thread_sends_on(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a")
    sender = zbus.Bus(dir=zbus_dir)
    before = signal.signal(signal.SIGVTALRM, lambda *_: sender.close())
    sent = 0
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.02)
        with pytest.raises(zbus.Canceled):
            while True:
                sender.send("a", "b", "/1", sent)
                sent += 1
    finally:
        signal.signal(signal.SIGVTALRM, before)
    sender.close()
    events = iter(sub)
    assert [next(events).data for _ in range(sent)] == list(range(sent))


def test_a_first_send_and_a_close_in_two_threads_do_not_hold_each_other(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a")
    for _ in range(100):
        sender = zbus.Bus(dir=zbus_dir)

        def send(sender: zbus.Bus = sender) -> None:
            with contextlib.suppress(zbus.Canceled):
                sender.send("a", "b", "/1")

        threads = [threading.Thread(target=send), threading.Thread(target=sender.close)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert sub.lost == 0
