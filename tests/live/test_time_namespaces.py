"""Peers in different time namespaces: their clocks differ, their losses are exact all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import zbus
from zbus.runtime import clock as module
from zbus.runtime.clock import clock

from .process import Worker, receive

SECONDS = 100_000


def within(seconds: int) -> tuple[str, ...]:
    return ("unshare", "--time", "--map-root-user", "--monotonic", str(seconds))


allowed = pytest.mark.skipif(
    subprocess.run([*within(1), "true"], capture_output=True, check=False).returncode != 0,
    reason="a time namespace of one's own is not allowed here",
)
either_way = pytest.mark.parametrize("seconds", [SECONDS, -SECONDS], ids=["ahead", "behind"])


@pytest.fixture(autouse=True)
def uptime() -> None:
    """Start the clock high enough to be set back: the kernel takes no time before the boot."""
    if time.monotonic() < 10:
        pytest.skip("the machine has just booted")


def offset(seconds: int) -> int:
    return max(seconds, -int(time.monotonic()) + 1)


@pytest.fixture
def sender(zbus_dir: str, request: pytest.FixtureRequest) -> Iterator[Worker]:
    worker = Worker("sender", within=within(offset(request.getfixturevalue("seconds")))).ready()
    yield worker
    if worker.process.poll() is None:
        worker.end()


@allowed
@either_way
def test_the_clock_is_that_of_the_machine(seconds: int) -> None:
    program = "import time; from zbus.runtime.clock import clock; print(clock(), time.monotonic_ns() // 1000)"
    ahead = offset(seconds)  # asked once: it counts the seconds since the boot
    command = [*within(ahead), sys.executable, "-c", program]
    before = clock()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    corrected, plain = map(int, done.stdout.split())
    assert before <= corrected <= clock()
    assert abs(plain - corrected - ahead * 1_000_000) < 1_000_000


@allowed
@either_way
def test_what_was_sent_before_a_join_is_no_loss(seconds: int, bus: zbus.Bus, sender: Worker) -> None:
    sender.tell("first 1000")
    assert sender.hear()["sent"] == 1000
    sub = bus.subscribe("first")
    sender.tell("first 1")
    assert receive(sub).seq == 1001
    assert sub.lost == 0


@allowed
@either_way
def test_what_was_dropped_of_a_new_topic_is_counted(seconds: int, bus: zbus.Bus, sender: Worker) -> None:
    full, passed = bus.subscribe("*", capacity=10), bus.subscribe("last")
    for order in ("filler 5000", "second 20000", "last 1"):
        sender.tell(order)
        sender.hear()
    receive(passed)  # so all that was sent before has come by
    kept = [receive(full).system for _ in range(10)]
    assert kept == ["filler"] * 10
    for order in ("filler 1", "second 1"):
        sender.tell(order)
        assert receive(full).system == order.split()[0]
    assert full.lost == 5000 - 10 + 20000


def test_a_process_that_cannot_tell_leaves_times_out(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after it has called `unshare` itself: the kernel shows the offset of its children only."""
    real = os.readlink

    def readlink(path: str) -> str:
        return "time:[1]" if path.endswith("/time_for_children") else real(path)

    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(10):
            sender.send("a", "b", "/1", number)
        monkeypatch.setattr(module, "_offset", module._Offset())
        monkeypatch.setattr(os, "readlink", readlink)
        assert clock() == -1
        sub = bus.subscribe("a")
        sender.send("a", "b", "/1")
        sender.send("new", "b", "/1")
        assert receive(sub).seq == 11
        assert sub.lost == 0


def test_what_was_known_before_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    offset = module._Offset()
    known = offset.at(0)
    assert known is not None
    real = os.readlink
    monkeypatch.setattr(
        os, "readlink", lambda path: "time:[1]" if path.endswith("/time_for_children") else real(path)
    )
    assert offset.at(10**9) == known
    assert module._Offset().at(0) is None


def test_the_offset_is_looked_up_again_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    offset = module._Offset()
    offset.at(0)
    monkeypatch.setattr(module, "_read", lambda: 7)
    assert offset.at(10**9 - 1) != 7
    assert offset.at(10**9) == 7
    monkeypatch.setattr(module, "_read", lambda: 8)
    assert offset.at(10**9 - 1) == 8  # time went backwards
