"""More subscriptions than libzmq passes to a new connection by default: 1,000, and silently."""

from __future__ import annotations

import os

import zbus
from zbus.receiving.ingress import Ingress
from zbus.roster.directory import Roster
from zbus.runtime.context import LazyContext

from .process import receive

CHANNELS, EACH = 200, 16


def test_a_publisher_that_comes_later_gets_thousands_of_subscriptions(bus: zbus.Bus, zbus_dir: str) -> None:
    subs = [
        bus.subscribe("(" + "|".join(f"s{number}x{one}" for one in range(EACH)) + ")")
        for number in range(CHANNELS)
    ]
    with zbus.Bus(dir=zbus_dir, join_timeout=20) as sender:
        for number in range(CHANNELS):
            for one in (0, EACH - 1):
                sender.send(f"s{number}x{one}", "k", "/1", one)
        for sub in subs:
            assert [receive(sub).data for _ in range(2)] == [0, EACH - 1]
    [counters] = [peer.counters for peer in zbus.peers() if peer.role == "member" and peer.pid == os.getpid()]
    assert counters["join_timeouts"] == 0


def test_a_channel_passes_thousands_of_subscriptions_to_its_forwarder(zbus_dir: str) -> None:
    context, roster = LazyContext(), Roster(zbus_dir, "default")
    ingress = Ingress(
        context.get(),
        roster,
        blocking=False,
        capacity=100,
        max_event_bytes=10_000,
        on_notice=lambda *_: 0.0,
        sources=lambda _: [],
    )
    try:
        room, _ = ingress.connect(tuple(f"s{number}\0".encode() for number in range(3_000)), 100, 1 << 20)
        room.socket.close()
    finally:
        ingress.withdraw()
        ingress.close()
        context.term()
        roster.close()
