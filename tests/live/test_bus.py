"""A bus in one process: what is sent arrives, once, in order, and everything ends when it should."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zbus
import zbus.channel as channel_module
from zbus.roster.directory import Roster
from zbus.sending.publisher import Publisher
from zbus.testing.faults import Faults

from .process import receive


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


def test_an_event_with_a_timeout_of_its_own_goes_the_short_way(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1")

    def long_way(*_: object) -> None:
        raise AssertionError("the long way")

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "drive", long_way)
        for timeout in (0, 0.5, 60, None):
            bus.send("a", "b", "/2", timeout=timeout)
    for wrong, error in (("1", TypeError), (True, TypeError), (-1, zbus.Invalid), (math.nan, zbus.Invalid)):
        with pytest.raises(error, match="timeout"):
            bus.send("a", "b", "/3", timeout=wrong)  # type: ignore[arg-type]
    bus.send("a", "b", "/4")
    assert [(evt.path, evt.seq) for evt in (receive(sub) for _ in range(6))] == [
        ("/1", 1),
        *(("/2", number) for number in range(2, 6)),
        ("/4", 6),
    ]


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


def test_peers_tell_who_is_on_the_bus(bus: zbus.Bus, zbus_dir: str) -> None:
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
    entries = [path.suffix for path in Path(zbus_dir, "v1", bus.name).iterdir()]
    assert (entries.count(".block"), entries.count(".drop")) == (1, 1)
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


def test_a_loss_is_reported_before_receive_waits_for_what_follows(
    zbus_bus: zbus.Bus, zbus_faults: Faults, zbus_dir: str
) -> None:
    with zbus.Bus(dir=zbus_dir) as listener:
        sub = listener.subscribe("a", on_gap=lambda _: sub.close())
        zbus_bus.send("a", "b", "/1")
        zbus_faults.drop("a", count=1)
        zbus_bus.send("a", "b", "/2")
        zbus_bus.close()  # which sends the mark
        assert sub.channel().receive(timeout=30)[1]
        assert sub.channel().receive(timeout=30) == (None, False)
        assert sub.lost == 1


@pytest.mark.parametrize("timeout", [0, 30])
def test_a_timeout_costs_no_poll_for_each_event(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    sub, other = bus.subscribe("a"), bus.subscribe("a")
    for number in range(100):
        bus.send("a", "b", "/1", number)
    assert [receive(other).data for _ in range(100)] == [*range(100)]  # so both have all
    polls = []
    poll = channel_module.zmq_poll
    monkeypatch.setattr(channel_module, "zmq_poll", lambda *asked: polls.append(asked) or poll(*asked))
    assert [sub.channel().receive(timeout=timeout)[0].data for _ in range(100)] == [*range(100)]
    assert len(polls) <= 1


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


def test_the_token_moves_with_every_change(bus: zbus.Bus, zbus_dir: str) -> None:
    roster = Roster(zbus_dir, "default")
    seen = {roster.token[0]}
    for change in (lambda: bus.subscribe("a"), lambda: bus.subscribe("b", overflow="block"), bus.close):
        change()
        assert roster.token[0] not in seen
        seen.add(roster.token[0])
    roster.close()


def test_a_thread_among_others_at_full_speed_gets_its_turn(zbus_dir: str) -> None:
    """They give way to whoever is at it, but only for a while."""
    stop = threading.Event()
    with zbus.Bus(dir=zbus_dir) as bus:
        _sub = bus.subscribe("a", capacity=10)

        def run() -> None:
            while not stop.is_set():
                for _ in range(1000):
                    bus.send("a", "b", "/1")

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        for _ in range(20):
            bus.send("a", "b", "/2")
        took = time.monotonic() - start
        stop.set()
        for thread in threads:
            thread.join()
    assert took < 10
