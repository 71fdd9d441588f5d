"""The order of steps in a join, each held up in turn: what races would show once in a million joins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import zbus
from zbus.protocol.sentinels import sentinel
from zbus.receiving import forwarder
from zbus.receiving.ingress import Ingress
from zbus.roster.directory import Entry, Roster
from zbus.runtime.context import LazyContext


@pytest.fixture
def roster(zbus_dir: str) -> Iterator[Roster]:
    opened = Roster(zbus_dir, "default")
    yield opened
    opened.close()


class Gate(threading.Event):
    """Stands in for the forwarder's loop: forwards while it is open, so that a test can hold it up."""

    def forward(self, publishers: Any, channels: Any, steer: Any) -> None:
        poller = zmq.Poller()
        for socket in (publishers, channels, steer):
            poller.register(socket, zmq.POLLIN)
        while steer not in (ready := dict(poller.poll(5))):
            if self.wait(0.005):
                for source, target in ((publishers, channels), (channels, publishers)):
                    if source in ready:
                        target.send(source.recv())
        for socket in (publishers, channels, steer):
            socket.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    made.set()
    monkeypatch.setattr(forwarder, "_forward", made.forward)
    return made


@pytest.fixture
def ingress(roster: Roster, gate: Gate) -> Iterator[Ingress]:
    context = LazyContext()
    made = Ingress(
        context.get(),
        roster,
        blocking=False,
        capacity=100,
        max_event_bytes=10_000,
        on_notice=lambda *_: 0.0,
        sources=lambda _: [],
    )
    yield made
    made.withdraw()
    made.close()
    context.term()


class Held:
    """A call in a thread of its own, while the forwarder is held up."""

    def __init__(self, gate: Gate, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._gate = gate
        gate.clear()
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        self.result = call()

    def returns(self, limit: float) -> bool:
        self._thread.join(limit)
        return not self._thread.is_alive()

    def let_go(self) -> Any:
        self._gate.set()
        assert self.returns(10)
        return self.result


def test_a_channel_is_connected_only_when_its_prefixes_have_passed_the_forwarder(
    ingress: Ingress, gate: Gate
) -> None:
    held = Held(gate, lambda: ingress.connect((b"a",), 100, 1 << 20))
    assert not held.returns(0.2)
    room, _ = held.let_go()
    room.socket.close()


def test_an_epoch_is_announced_only_when_its_sentinel_has_passed_the_forwarder(
    ingress: Ingress, roster: Roster, gate: Gate
) -> None:
    room, _ = ingress.connect((b"a",), 100, 1 << 20)
    before = roster.token[0]
    held = Held(gate, lambda: ingress.publish(room.socket, {}))
    assert not held.returns(0.2)
    assert roster.entries() == {}
    assert roster.token[0] == before
    held.let_go()
    assert roster.entries() == {ingress.id: Entry(ingress.id, 1, "drop")}
    assert roster.token[0] != before
    room.socket.close()


def test_a_new_entry_is_there_before_the_token_moves_and_the_old_one_goes_after(
    ingress: Ingress, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    touch = roster.touch

    def look() -> None:
        seen.append(sorted(path.name for path in roster.path.glob("*.drop")))
        touch()

    monkeypatch.setattr(roster, "touch", look)
    sockets = []
    for _ in range(3):
        room, _ = ingress.connect((b"a",), 100, 1 << 20)
        sockets.append(room.socket)
        ingress.publish(room.socket, {})
    names = [f"{ingress.id}.{epoch}.drop" for epoch in (1, 2, 3)]
    assert seen == [names[:1], names[:2], names[1:]]
    assert sorted(path.name for path in roster.path.glob("*.drop")) == names[2:]
    for socket in sockets:
        socket.close()


def test_the_socket_has_its_name_only_once_it_listens(ingress: Ingress, roster: Roster) -> None:
    assert not roster.socket_path(ingress.id).exists()
    room, _ = ingress.connect((b"a",), 100, 1 << 20)
    ingress.publish(room.socket, {})
    assert roster.alive(ingress.id)
    room.socket.close()


def test_the_sentinel_of_the_last_epoch_goes_when_the_next_is_announced(
    ingress: Ingress, roster: Roster
) -> None:
    """A publisher that connects gets those that are left, and thousands of them would take their time."""
    sockets = []
    for _ in range(5):
        room, _ = ingress.connect((b"a",), 100, 1 << 20)
        sockets.append(room.socket)
        ingress.publish(room.socket, {})
    last, shown = sentinel(ingress.id, 5), [b""]
    deadline = time.monotonic() + 10
    while shown != [last] and time.monotonic() < deadline:  # until it has passed the forwarder
        shown = shown_to_a_newcomer(roster.socket_path(ingress.id), last)
    for socket in sockets:
        socket.close()
    assert shown == [last]


def shown_to_a_newcomer(path: Path, last: bytes) -> list[bytes]:
    """Return the sentinels that a publisher gets when it connects, up to the `last`."""
    shown: list[bytes] = []
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        publisher.connect(f"ipc://{path}")
        while last not in shown:
            assert publisher.poll(10_000)
            topic = publisher.recv()[1:]
            if topic.startswith(last[:-1]):
                shown.append(topic)
    return shown


def test_a_sentinel_names_ingress_and_epoch() -> None:
    assert sentinel("00ff", 7) == b"\xff00ff.7"


def test_a_subscriber_that_joins_while_the_roster_is_listed_gets_the_event(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is remembered before the listing, so a change during it is seen."""
    late: list[zbus.Subscription] = []
    entries = bus._node._roster.entries

    with zbus.Bus(dir=zbus_dir) as other:

        def stale() -> dict[str, Entry]:
            found = entries()
            if not late:
                late.append(other.subscribe("a"))
            return found

        monkeypatch.setattr(bus._node._roster, "entries", stale)
        bus.send("a", "b", "/1")
        assert late[0].channel().receive(timeout=30)[1]


def test_a_listing_is_repeated_while_the_token_moves(roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory read in pieces can miss an entry that is replaced meanwhile."""
    import os

    calls = []
    listdir = os.listdir

    def overtaken(path: Any) -> list[str]:
        names = listdir(path)
        calls.append(path)
        if len(calls) == 1:
            Path(roster.path, "0123456789abcdef.2.drop").touch()
            roster.touch()
        return names

    monkeypatch.setattr(os, "listdir", overtaken)
    assert set(roster.entries()) == {"0123456789abcdef"}
    assert len(calls) == 2
    Path(roster.path, "0123456789abcdef.2.drop").unlink()
