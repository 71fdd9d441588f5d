"""Who blocks: a send or a flush that times out names whom it has waited for."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus import aio
from zbus.roster.file_names import Entry
from zbus.runtime.process_state import ProcessState
from zbus.sending import blockers

from . import quiet
from .process import Spawn, Worker, directory, receive

ME = pwd.getpwuid(os.getuid()).pw_name
LARGE = "x" * 2_000  # so that few fill a connection


def fill(bus: zbus.Bus, system: str = "a") -> int:
    """Send until a connection takes no more; return how many events."""
    return quiet.fill(lambda _: bus.send(system, "k", "/1", LARGE, timeout=0.1))


def held(bus: zbus.Bus, system: str = "a", timeout: float = 0.2) -> zbus.Timeout:
    """Return what a send says that finds no room."""
    with pytest.raises(zbus.Timeout) as caught:
        bus.send(system, "k", "/held", timeout=timeout)
    assert caught.value.message.count("\n") == 0
    return caught.value


@contextmanager
def stopped(worker: Worker) -> Iterator[None]:
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


def ids(error: zbus.Error) -> list[str]:
    return [subscriber["id"] for subscriber in error.details["subscribers"]]


def listener() -> zbus.Peer:
    """Return who subscribes."""
    [peer] = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    return peer


def test_a_stopped_subscriber_is_named_with_all_that_is_known_of_it(bus: zbus.Bus, spawn: Spawn) -> None:
    worker = spawn("idle_subscriber", "a", "block", 1).ready()
    bus.send("a", "k", "/joined")
    with stopped(worker):
        fill(bus)
        error = held(bus)
    peer = listener()
    assert error.details == {
        "system": "a",
        "kind": "k",
        "subscribers": [
            {
                "id": peer.id,
                "process": "workers.py",
                "pid": worker.pid,
                "user": ME,
                "patterns": [("a", "*")],
                "stopped": True,
            }
        ],
    }
    assert error.message == (
        f"'block' subscriber {peer.id} (workers.py, process {worker.pid}, stopped, user {ME}, a) made no room"
        " within 0.2 s, so the event went to nobody: send it again, or see with 'zbus ls' who is on the bus"
    )


def test_of_several_only_the_one_is_named_that_is_full(bus: zbus.Bus) -> None:
    _full = bus.subscribe("a.**", "k", overflow="block", capacity=1)
    reads, _other = bus.subscribe("a", overflow="block"), bus.subscribe("b", overflow="block")
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(iter(reads)))
    reader.start()
    sent = fill(bus)
    while len(got) < sent:
        time.sleep(0.01)
    error = held(bus)
    [peer] = [peer for peer in zbus.peers() if ("a.**", "k") in peer.patterns]
    assert ids(error) == [peer.id]
    assert f"'block' subscriber {peer.id} (" in error.message
    assert (
        f"process {os.getpid()}, which is this one, user {ME}, a.** k) made no room within" in error.message
    )
    assert error.details["subscribers"][0]["stopped"] is False
    reads.close()
    reader.join()


def test_those_that_are_stopped_come_first_and_the_first_few_are_named(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the kernel tells of connections: bytes not read, whether it takes no more, the process.
    kernel = [(900, True, 1), (10, False, 2), (800, True, 3), (0, False, 4), (700, True, 5), (950, True, 6)]
    entries = [Entry(f"{number:016x}", 1, "block") for number in range(len(kernel))]
    sockets = [(number, "", f"/x/{entry.id}.sock") for number, entry in enumerate(entries)]
    monkeypatch.setattr(blockers, "unix_sockets", lambda: sockets)
    monkeypatch.setattr(blockers, "_connection", kernel.__getitem__)
    monkeypatch.setattr(
        blockers, "process_state", lambda pid: ProcessState(0.0, 0.0, ready=False, stopped=pid in (3, 4))
    )

    def told(*numbers: int) -> zbus.Timeout:
        linked = blockers.LinkSnapshot(Path(zbus_dir), [entries[number] for number in numbers], [])
        return blockers.send_timeout_error(blockers.NO_ROOM, 1.0, linked, "a", "k")

    error = told(0, 1, 2, 3, 4, 5)
    assert ids(error) == [entries[number].id for number in (2, 5, 0, 4)]
    assert [subscriber["stopped"] for subscriber in error.details["subscribers"]] == [
        True,
        False,
        False,
        False,
    ]
    assert error.message.startswith(
        f"4 'block' subscribers, {entries[2].id} (?, process ?, stopped), {entries[5].id} (?, process ?),"
        f" {entries[0].id} (?, process ?) and 1 more, made no room within 1 s, so the event went to nobody"
    )
    both = f"{entries[5].id} (?, process ?) and {entries[0].id} (?, process ?)"
    assert told(0, 5).message.startswith(f"2 'block' subscribers, {both}, made no room within 1 s")
    assert told(3, 1).message.startswith(f"one of 2 'block' subscribers, perhaps {entries[1].id} (")
    assert ids(told(3, 1)) == [entries[1].id]


async def test_the_twin_names_it_too_and_so_does_send_many(zbus_dir: str) -> None:
    async with aio.Bus(dir=zbus_dir) as bus:
        _sub = await bus.subscribe("a", overflow="block", capacity=1)
        await quiet.fill_async(lambda _: bus.send("a", "k", "/1", LARGE, timeout=0.1))
        for send in (
            bus.send("a", "k", "/1", timeout=0.1),
            bus.send_many("a", "k", [("/1", 1)], timeout=0.1),
        ):
            with pytest.raises(zbus.Timeout, match="made no room") as caught:
                await send
            assert ids(caught.value) == [listener().id]


def test_who_waits_for_another_thread_hears_whom_that_one_waits_for(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=1)
    fill(bus)
    linked = bus._node._links.snapshot
    error = blockers.send_timeout_error(blockers.BUSY, 0.2, linked(), "a", "k")
    assert error.message.startswith("another thread is sending, and 'block' subscriber ")
    assert ids(error) == [listener().id]
    sub.close()
    bus.send("a", "k", "/1", timeout=20)  # lets go of it
    error = blockers.send_timeout_error(blockers.BUSY, 0.2, linked(), "a", "k")
    assert error.message.startswith("another thread is sending within 0.2 s")
    assert ids(error) == []


def test_where_nothing_proves_it_all_are_named_that_it_may_be(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = [bus.subscribe("a", overflow="block", capacity=1)]
    fill(bus)
    monkeypatch.setattr(blockers, "unread_bytes", lambda _: 0)
    assert held(bus).message.startswith(f"'block' subscriber {listener().id} (")
    subs.append(bus.subscribe("other", overflow="block"))
    bus.send("other", "k", "/1")
    error = held(bus)
    assert error.message.startswith("one of 2 'block' subscribers, perhaps ")
    assert set(ids(error)) == {peer.id for peer in zbus.peers() if peer.role == "subscriber"}


def test_what_others_chose_to_be_called_disturbs_no_line(zbus_dir: str) -> None:
    entry = Entry("00000000deadbeef", 7, "block")
    path = Path(zbus_dir, entry.name)
    patterns = [["a\n" * 100, "\x1b[31m"], ["b", "*"], ["c", "d"], ["e", "f"], ["g", "h"], ["odd"]]
    about = {"process": "\x1b]0;hello\x07" + "p" * 100, "pid": -1, "patterns": patterns}
    path.write_text(json.dumps(about))
    lines = "a\n" * 30
    said = blockers.describe_subscriber(Path(zbus_dir), entry._replace(epoch=6))  # it has moved on meanwhile
    assert said == (
        f"00000000deadbeef (\\x1b]0;hello\\x07{'p' * 50}…, process ?, user {ME}, {lines}…, b, c d,"
        " 2 more patterns)"
    ).replace("\n", "\\n")
    path.unlink()
    assert blockers.describe_subscriber(Path(zbus_dir), entry) == "00000000deadbeef (?, process ?)"


@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_a_flush_names_who_has_not_read_everything(bus: zbus.Bus, spawn: Spawn, overflow: str) -> None:
    reads = bus.subscribe("**")
    worker = spawn("idle_subscriber", "a", overflow, 10).ready()
    bus.send("a", "k", "/1", 1)
    bus.flush(20)
    with stopped(worker):
        bus.send("a", "k", "/1", 2)
        with pytest.raises(
            zbus.Timeout, match=r"has not taken what was sent within 0\.1 s: try again"
        ) as caught:
            bus.flush(0.1)
        [subscriber] = caught.value.details["subscribers"]
        assert (subscriber["pid"], subscriber["stopped"]) == (worker.pid, True)
        assert caught.value.message.startswith(f"subscriber {subscriber['id']} (workers.py, process ")
        assert caught.value.details["timeout"] == 0.1
        with pytest.raises(zbus.Timeout, match=f"process {worker.pid}, stopped"):
            asyncio.run(flush_twin(bus))
    bus.flush(20)
    assert [receive(reads).data, receive(reads).data] == [1, 2]


async def flush_twin(bus: zbus.Bus) -> None:
    twin = aio.Bus(dir=str(directory(bus).parents[1]))
    try:
        await twin.send("a", "k", "/2", timeout=0)
    except zbus.Timeout:  # a stopped `block` subscriber does not let it join
        raise
    else:
        await twin.flush(0.1)
    finally:
        await twin.close()


@pytest.mark.usefixtures("zbus_dir")
def test_a_full_queue_does_not_hold_up_large_events_of_other_topics() -> None:
    with (
        zbus.Bus() as bus,
        bus.subscribe("a", overflow="block", capacity=100),
        bus.subscribe("b", overflow="block") as sub,
    ):
        fill(bus)
        for number in range(20):
            bus.send("b", "k", "/1", LARGE * 500, timeout=60)
            assert receive(sub).seq == number + 1
        held(bus)


def test_large_events_of_other_topics_leave_the_queue_of_a_resting_subscriber_empty(
    bus: zbus.Bus, spawn: Spawn
) -> None:
    worker = spawn("idle_subscriber", "a", "block", 10).ready()
    with bus.subscribe("b", overflow="block") as sub:
        for number in range(500):
            bus.send("b", "k", "/1", LARGE * 50, timeout=60)
            assert receive(sub).seq == number + 1
        with zbus.Bus() as newcomer:
            newcomer.send("a", "k", "/1", timeout=30)
    assert worker.end() == 0
