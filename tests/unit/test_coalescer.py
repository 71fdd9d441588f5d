"""The coalescer with a publisher made of lists: what it holds, what it sends when, and interrupts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from zbus.options import DEFAULT
from zbus.protocol.marks import Topic
from zbus.runtime import housekeeping
from zbus.runtime.locks import Lock
from zbus.sending.attempts import Unsent
from zbus.sending.coalescer import BEHIND, HELD, Coalescer, EmitHeld

LONG = 3600.0


class Interrupt(BaseException):
    """What Ctrl-C would be."""


class Publisher:
    """Sends to lists; `before` and `after` are called in the middle of each send to one of them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.sending = False
        self.token = memoryview(bytearray(8)).cast("Q")
        self.settled_token = 0
        self.known = Topic(1)
        self.current = {"a": {"b": self.known}}
        self.blocked: list[bytes] = []
        self.dropped: list[bytes] = []
        self.transmitted = 0
        self.before: Callable[[list[bytes]], None] = lambda _: None
        self.after: Callable[[list[bytes]], None] = lambda _: None
        self.block: Callable[..., object] | None = lambda frame, _=0: self._send(self.blocked, frame)
        self.drop: Callable[..., object] | None = lambda frame, _=0: self._send(self.dropped, frame)

    def _send(self, to: list[bytes], frame: bytes) -> None:
        self.before(to)
        to.append(frame)
        self.after(to)

    def give_way(self) -> None:
        raise AssertionError("nobody else sends")

    @property
    def streams(self) -> Any:
        return SimpleNamespace(get=lambda system, kind: self.current[system][kind])

    def transmit(self, unsent: Unsent, emit_held: EmitHeld) -> None:
        self.transmitted += 1
        frame = b"%d %b %b" % (self.known.seq + 1, unsent.path, unsent.body)
        emit_held(frame, self.known, unsent.events)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(housekeeping, "schedule", lambda _, seconds: found.append(seconds))
    return found


@pytest.fixture
def coalescer(publisher: Publisher, asked: list[float]) -> Coalescer:
    made = Coalescer(publisher, LONG, 1_000_000)
    assert [made.hold("a", "b", "/1", 0, DEFAULT) for _ in range(2)] == [DEFAULT] * 2
    return made


def hold(coalescer: Coalescer, count: int) -> None:
    for number in range(count):
        assert coalescer.hold("a", "b", "/1", number, DEFAULT) is HELD


BATCH = b'1  [["/1",0],["/1",1],["/1",2]]'


def test_what_goes_is_counted_once(publisher: Publisher, coalescer: Coalescer) -> None:
    hold(coalescer, 3)
    assert coalescer.go()
    assert publisher.blocked == publisher.dropped == [BATCH]
    assert (publisher.known.seq, coalescer.rows) == (3, [])
    assert coalescer.go()
    assert publisher.transmitted == 1


def test_what_finds_no_room_stays_and_keeps_others_behind(publisher: Publisher, coalescer: Coalescer) -> None:
    def refuse(_: list[bytes]) -> None:
        raise zmq.Again

    hold(coalescer, 3)
    publisher.before = refuse
    assert coalescer.hold("a", "c", "/1", 0, DEFAULT) is BEHIND
    assert coalescer.hold("a", "c", "/1", 0, 1.5) == 1.5
    assert (publisher.known.seq, len(coalescer.rows)) == (0, 3)
    publisher.before = lambda _: None
    assert coalescer.hold("a", "d", "/1", 0, DEFAULT) is DEFAULT
    assert publisher.blocked == publisher.dropped == [BATCH]


def test_nothing_goes_at_once_while_somebody_joins(publisher: Publisher, coalescer: Coalescer) -> None:
    hold(coalescer, 3)
    publisher.token[0] = 1
    assert not coalescer.go()
    assert not publisher.transmitted
    assert coalescer.hold("a", "c", "/1", 0, DEFAULT) is BEHIND


def test_nothing_is_held_while_somebody_joins(publisher: Publisher, coalescer: Coalescer) -> None:
    publisher.token[0] = 1
    assert coalescer.hold("a", "b", "/1", 0, DEFAULT) is DEFAULT
    assert not coalescer.rows


def test_rows_may_be_added_after_a_batch_found_no_room(publisher: Publisher, coalescer: Coalescer) -> None:
    hold(coalescer, 2)
    publisher.block = _full
    assert not coalescer.go()
    assert coalescer.hold("a", "b", "/1", 2, DEFAULT) is HELD
    publisher.block = None
    assert coalescer.go()
    assert publisher.dropped == [BATCH]


def _full(*_: Any) -> None:
    raise zmq.Again


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("lane", ["blocked", "dropped"])
def test_an_interrupt_leaves_no_batch_half_sent(
    publisher: Publisher, coalescer: Coalescer, lane: str, moment: str
) -> None:
    """Others may send as soon as the lock is free. (pyzmq sends here, so an interrupt before it may lose.)"""

    def interrupt(to: list[bytes]) -> None:
        if to is getattr(publisher, lane):
            setattr(publisher, moment, lambda _: None)
            raise Interrupt

    hold(coalescer, 3)
    setattr(publisher, moment, interrupt)
    with pytest.raises(Interrupt):
        coalescer.go()
    for name, frames in (("blocked", publisher.blocked), ("dropped", publisher.dropped)):
        assert frames == ([] if (name, moment) == (lane, "before") else [BATCH])
    assert (publisher.known.seq, coalescer.rows) == (3, [])
    assert coalescer.go()
    assert publisher.transmitted == 1


class Liar(str):
    """Text that passes for another one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == "b"

    def __hash__(self) -> int:
        return hash("b")


def test_a_text_that_passes_for_another_one_is_not_held(publisher: Publisher, coalescer: Coalescer) -> None:
    liar = Liar("secret")
    assert [coalescer.hold("a", liar, "/1", 0, DEFAULT) for _ in range(4)] == [DEFAULT] * 4


def test_one_timer_serves_many_batches(coalescer: Coalescer, asked: list[float]) -> None:
    hold(coalescer, 1000)
    assert asked == [LONG]


def test_what_is_given_up_takes_its_numbers_and_is_told(
    publisher: Publisher, coalescer: Coalescer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr("zbus.sending.coalescer.report", lambda _, *facts: told.append(facts))
    hold(coalescer, 3)
    with publisher.lock:
        coalescer.close()
    assert told == [(3, "a", "b")]
    assert (publisher.known.seq, coalescer.rows) == (3, [])
    assert not publisher.blocked
