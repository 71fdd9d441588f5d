"""What goes wrong is counted, told once, and there for others to read; it costs nothing else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import zbus

from .process import Spawn, receive
from .test_foreign import Foreign


def counters(pid: int) -> dict[str, int]:
    """Return the counters of the only member of a process, as any other process reads them."""
    [peer] = [peer for peer in zbus.peers() if peer.role == "member" and peer.pid == pid]
    return peer.counters


def overflow(bus: zbus.Bus, sub: zbus.Subscription, lost: int) -> None:
    """Lose `lost` events of a channel whose capacity is 2, and receive the one that shows it."""
    every = bus.subscribe("a")
    for number in range(2 + lost):
        bus.send("a", "b", "/1", number)
    for number in range(2 + lost):
        assert receive(every).data == number
    every.close()
    assert [receive(sub).data for _ in range(2)] == [0, 1]
    bus.send("a", "b", "/1", "shows it")
    assert receive(sub).data == "shows it"
    assert sub.lost == lost


def test_what_goes_wrong_is_counted_for_others_to_read(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a", capacity=2)
    typed = bus.subscribe("typed", type=int)
    overflow(bus, sub, 7)
    bus.send("typed", "b", "/1", "no number")
    bus.send("typed", "b", "/1", 1)
    assert receive(typed).data == 1
    foreign = Foreign(zbus_dir)
    try:
        for frame in (b"typed\0b\0/1\0wrong\0", b"typed\0b\0/1\0\0wrong", b"typed\0b\0/1\0\x002"):
            foreign.socket.send(frame)
        assert receive(typed).data == 2
    finally:
        foreign.close()
    full = bus.subscribe("full", overflow="block", capacity=2)
    with pytest.raises(zbus.Timeout):
        while True:
            bus.send("full", "b", "/1", "x" * 300_000, timeout=0.05)
    full.close()
    found = counters(os.getpid())
    assert found["lost"] == 7
    assert found["malformed"] == 2
    assert found["mismatched"] == 1
    assert found["send_timeouts"] == 1
    assert found["join_timeouts"] == 0


def test_a_malformed_frame_is_told_once(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zbus.receiving.channel_base._LOG_INTERVAL", 0.0)
    sub = bus.subscribe("a")
    foreign = Foreign(zbus_dir)
    try:
        foreign.socket.send(b"a\0b\0/1\0wrong\0")
        for _ in range(3):
            foreign.socket.send(b"a\0b\0/1\0\0true")
            assert receive(sub).data is True
    finally:
        foreign.close()
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "skipped 1 malformed frames" in told[0]


def test_a_callback_that_raises_costs_no_event(bus: zbus.Bus, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: zbus.Gap) -> None:
        raise ZeroDivisionError

    sub = bus.subscribe("a", capacity=2, on_gap=fail)
    overflow(bus, sub, 1)
    assert any(record.message == "on_gap of channel a * raised an error" for record in caplog.records)


def test_a_counter_stays_at_the_largest_number(bus: zbus.Bus) -> None:
    member = bus._node._member
    member.add("lost", 2**64 - 5)
    assert counters(os.getpid())["lost"] == 2**64 - 5
    for _ in range(3):
        member.add("lost", 3)
    assert counters(os.getpid())["lost"] == 2**64 - 1


def test_peers_tell_the_living_from_the_dead(bus: zbus.Bus, spawn: Spawn, zbus_dir: str) -> None:
    _sub = bus.subscribe("a")
    worker = spawn("idle_subscriber", "a", "drop", 10).ready()

    def shown() -> set[tuple[int, str, bool]]:
        return {(peer.pid, peer.role, peer.alive) for peer in zbus.peers()}

    mine = {(os.getpid(), role, True) for role in ("member", "subscriber")}
    assert shown() == mine | {(worker.pid, role, True) for role in ("member", "subscriber")}
    worker.kill()
    assert shown() == mine | {(worker.pid, role, False) for role in ("member", "subscriber")}
    zbus.Bus(dir=zbus_dir).close()
    assert shown() == mine


def test_opening_a_bus_raises_the_limit_of_descriptors(zbus_dir: str) -> None:
    """libzmq ends the process when it cannot accept a connection for want of one."""
    program = """
import resource, zbus
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
with zbus.Bus():
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
