"""A bus in one process: what is sent arrives, once, in order, and everything ends when it should."""

from __future__ import annotations

import contextlib
import gc
import itertools
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
from zbus.roster import Roster


def receive(sub: zbus.Subscription, timeout: float = 5.0) -> zbus.Event:
    evt, ok = sub.channel().receive(timeout=timeout)
    assert ok
    assert evt is not None
    return evt


@pytest.mark.parametrize(
    "data",
    [
        None,
        False,
        0,
        "",
        "text ÄÖ 주문",
        2**63,
        -(2**63),
        1.5,
        [],
        {},
        [None],
        {"a": [1, {"b": None}]},
        b"",
        b"\0a\0",
    ],
)
def test_data_arrives_as_it_was_sent(bus: zbus.Bus, data: Any) -> None:
    sub = bus.subscribe("orders.**", "order.*")
    bus.send("orders.eu", "order.created", "/orders/123", data)
    evt = receive(sub)
    assert (evt.system, evt.kind, evt.path) == ("orders.eu", "order.created", "/orders/123")
    assert evt.data == data
    assert type(evt.data) is type(data)
    assert evt.seq == 1
    assert len(evt.origin) == 16


def test_keys_that_are_not_strings_become_strings(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1", {1: "x", None: 2, False: 3, 2.5: 4})
    assert receive(sub).data == {"1": "x", "null": 2, "false": 3, "2.5": 4}


def test_send_many_arrives_as_single_events_in_order(bus: zbus.Bus) -> None:
    sub = bus.subscribe("m")
    items = [(f"/host/{n}", None if n % 3 == 0 else {"load": n}) for n in range(250)]
    assert bus.send_many("m", "cpu", items) == 250
    assert bus.send_many("m", "cpu", iter(items[:1])) == 1
    assert bus.send_many("m", "cpu", []) == 0
    bus.send("m", "cpu", "/single")
    events = [receive(sub) for _ in range(252)]
    assert [(evt.path, evt.data) for evt in events[:250]] == items
    assert [evt.seq for evt in events] == list(range(1, 253))
    assert sub.lost == 0


def test_no_subscriber_is_no_error(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1")
    assert bus.send_many("a", "b", [("/1", 1)]) == 1


def test_several_channels_and_several_buses_in_one_process(bus: zbus.Bus, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as same, zbus.Bus("other", dir=zbus_dir) as other:
        subs = [bus.subscribe("a"), bus.subscribe("*"), same.subscribe("**", "k"), bus.subscribe("a", "k")]
        elsewhere = other.subscribe("*")
        same.send("a", "k", "/1", 1)
        assert [receive(sub).data for sub in subs] == [1, 1, 1, 1]
        other.send("a", "k", "/1", 2)
        assert receive(elsewhere).data == 2
        for sub in subs:
            with pytest.raises(zbus.Timeout):
                sub.channel().receive(timeout=0)


def test_events_before_subscribe_are_not_replayed(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/before")
    sub = bus.subscribe("a")
    bus.send("a", "b", "/after")
    assert receive(sub).path == "/after"


@pytest.mark.parametrize("kind", [None, "", "*", "**"])
def test_no_kind_filter(bus: zbus.Bus, kind: str | None) -> None:
    sub = bus.subscribe("a", kind)
    bus.send("a", "any.thing", "/1")
    assert receive(sub).kind == "any.thing"


def test_a_topic_beyond_the_pattern_with_the_same_prefix_is_filtered(bus: zbus.Bus) -> None:
    sub = bus.subscribe("orders.**", "*.created")
    bus.send("ordersx", "a.created", "/no")
    bus.send("orders.eu", "a.deleted", "/no")
    bus.send("orders", "a.created", "/yes")
    assert receive(sub).path == "/yes"


def test_receive_times_out_as_a_builtin_timeout_error(bus: zbus.Bus) -> None:
    channel = bus.subscribe("a").channel()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no event within 0\.1 s") as caught:
        channel.receive(timeout=0.1)
    assert time.monotonic() - start >= 0.1
    assert isinstance(caught.value, zbus.Error)
    assert caught.value.retryable


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


def test_peers_tell_who_is_on_the_bus(bus: zbus.Bus) -> None:
    _kept = [
        bus.subscribe("orders.**", "order.*"),
        bus.subscribe("a"),
        bus.subscribe("b", overflow="block"),
    ]
    shown = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    assert [(peer.overflow, peer.patterns) for peer in shown] == [
        ("block", [("b", "*")]),
        ("drop", [("orders.**", "order.*"), ("a", "*")]),
    ]
    for peer in zbus.peers():
        assert (peer.pid, peer.language, peer.alive) == (os.getpid(), "python", True)


def test_peers_of_a_bus_that_nobody_opened(zbus_dir: str) -> None:
    assert zbus.peers("nobody") == []
    assert not Path(zbus_dir, "v1").exists()


def test_closing_one_channel_updates_what_the_roster_shows(bus: zbus.Bus) -> None:
    first = bus.subscribe("a")
    _second = bus.subscribe("b")
    first.close()
    assert [peer.patterns for peer in zbus.peers() if peer.role == "subscriber"] == [[("b", "*")]]


def test_the_policy_is_asked_once_per_topic_and_subscription(zbus_dir: str) -> None:
    asked: list[tuple[str, str]] = []

    def policy(action: str, resource: str) -> bool:
        asked.append((action, resource))
        return resource != "secret"

    with zbus.Bus(dir=zbus_dir, policy=policy) as bus:
        sub = bus.subscribe("a.*", "k")
        for _ in range(5):
            bus.send("a.b", "k", "/1")
        assert asked == [("events.subscribe", "a.*"), ("events.send", "a.b")]
        with pytest.raises(zbus.Invalid, match="not allowed to send events to system: secret") as caught:
            bus.send("secret", "k", "/1")
        assert not caught.value.retryable
        with pytest.raises(zbus.Invalid, match="not allowed to subscribe to events from system: secret"):
            bus.subscribe("secret")
        assert [receive(sub).seq for _ in range(5)] == [1, 2, 3, 4, 5]


def test_on_gap_may_close_the_channel_it_is_called_for(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", capacity=2, on_gap=lambda _: sub.close())
    for _ in range(5_000):
        bus.send("a", "b", "/1")
    got = 0
    for _ in sub:
        got += 1
        bus.send("a", "b", "/1")
    assert got
    assert sub.lost


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


def test_signals_neither_stretch_nor_cut_a_timeout(bus: zbus.Bus) -> None:
    channel = bus.subscribe("a").channel()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        start = time.monotonic()
        with pytest.raises(zbus.Timeout):
            channel.receive(timeout=0.5)
        assert 0.5 <= time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_two_receivers_share_a_channel_without_loss_or_duplication(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block")
    shares: list[list[int]] = [[], [], []]

    def iterate() -> None:
        shares[0].extend(evt.data for evt in sub)

    def poll(index: int, timeout: float | None) -> None:
        ok = True
        while ok:
            try:
                evt, ok = sub.channel().receive(timeout=timeout)
            except zbus.Timeout:
                continue
            if evt is not None:
                shares[index].append(evt.data)

    threads = [
        threading.Thread(target=iterate),
        threading.Thread(target=poll, args=(1, None)),
        threading.Thread(target=poll, args=(2, 0.01)),
    ]
    for thread in threads:
        thread.start()
    for number in range(0, 20_000, 10):
        bus.send("a", "b", "/1", number)
        bus.send_many("a", "b", [("/1", n) for n in range(number + 1, number + 10)])
    while sum(map(len, shares)) < 20_000:
        threads[0].join(0.01)
    sub.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(itertools.chain(*shares)) == list(range(20_000))
    assert sub.lost == 0


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


def test_the_token_moves_with_every_change(bus: zbus.Bus, zbus_dir: str) -> None:
    roster = Roster(zbus_dir, "default")
    seen = {roster.token[0]}
    for change in (lambda: bus.subscribe("a"), lambda: bus.subscribe("b", overflow="block"), bus.close):
        change()
        assert roster.token[0] not in seen
        seen.add(roster.token[0])
    roster.close()


def test_a_subscription_and_its_bus_may_close_at_the_same_time(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block")
    channel = sub.channel()
    woken, go_on = threading.Event(), threading.Event()
    wake = channel._wake

    def late(barrier: bytes) -> None:
        if threading.current_thread() is closing:
            woken.set()
            go_on.wait(10)
        wake(barrier)

    channel._wake = late
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
    assert channel.receive(timeout=5.0)[1]
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
