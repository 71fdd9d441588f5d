"""`coalesce`: events that follow each other quickly travel as one frame, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any

import orjson
import pytest

import zbus
from zbus import aio
from zbus.protocol.wire import decode
from zbus.runtime import housekeeping
from zbus.sending import tails

from .process import receive
from .quiet import fill, quiet
from .raw import RawSubscriber, joined
from .test_tails import account

# An event is held if the one before it is younger than a 20th of this, so here every one is that may be.
LONG = 3600.0
ROWS = 128


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers do not rest: after 0.2 s of a busy machine, the next event would go at once, unheld."""
    monkeypatch.setattr(tails, "_REST_SECONDS", 1000.0)


@pytest.fixture
def raw(zbus_dir: str, bus: zbus.Bus) -> Iterator[RawSubscriber]:
    with joined(zbus_dir, b"a", b"c") as subscriber:
        yield subscriber


@pytest.fixture
def sender(bus: zbus.Bus) -> Iterator[zbus.Bus]:
    with zbus.Bus(coalesce=LONG) as opened:
        yield opened


def hold(bus: zbus.Bus, count: int, first: int = 3, kind: str = "b") -> None:
    """Send two events that go at once, unless they are sent already, and `count` that are held."""
    if first == 3:
        bus.send("a", kind, "/1", 1)
        bus.send("a", kind, "/1", 2)
    for number in range(first, first + count):
        bus.send("a", kind, "/1", number)


def frames(raw: RawSubscriber, count: int) -> list[tuple[int, list[Any]]]:
    """Return number and data of so many frames."""
    found = []
    for _ in range(count):
        frame = decode(raw.receive())
        found.append((frame.stamp.seq, [evt.data for evt in frame.events]))
    return found


def until_quiet() -> None:
    while not quiet():
        continue


def test_the_third_event_in_a_row_is_held_and_flush_sends_it(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 5)
    assert frames(raw, 2) == [(1, [1]), (2, [2])]
    sender.flush(30)
    assert frames(raw, 1) == [(3, [3, 4, 5, 6, 7])]
    assert raw.frames.empty()


def test_one_event_that_is_held_goes_as_a_plain_one(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 0)
    sender.send("a", "b", '/"odd" ü', {"a": [None]})
    sender.flush(30)
    frames(raw, 2)
    assert raw.receive().split(b"\0", 4)[2::2] == ['/"odd" ü'.encode(), b'{"a":[null]}']


def test_a_batch_goes_when_it_has_128_rows(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 2 * ROWS + 1)
    assert [len(data) for _, data in frames(raw, 4)] == [1, 1, ROWS, ROWS]
    assert raw.frames.empty()


def test_a_batch_goes_when_it_has_64_kib(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 0)
    for _ in range(9):
        sender.send("a", "b", "/1", "x" * 10_000)
    assert [len(data) for _, data in frames(raw, 3)] == [1, 1, 6]
    sender.flush(30)
    assert [len(data) for _, data in frames(raw, 1)] == [3]


def test_a_large_event_goes_at_once(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 1)
    sender.send("a", "b", "/1", "x" * 70_000)
    assert [(seq, len(str(data))) for seq, data in frames(raw, 4)][2:] == [(3, 3), (4, 70_004)]


@pytest.mark.parametrize("seconds", [None, 0, 0.0])
def test_none_or_0_holds_nothing(zbus_dir: str, raw: RawSubscriber, seconds: float | None) -> None:
    with zbus.Bus(coalesce=seconds) as plain:
        for number in range(1, 51):
            plain.send("a", "b", "/1", number)
        assert frames(raw, 50) == [(number, [number]) for number in range(1, 51)]


def test_it_is_off_unless_asked_for(bus: zbus.Bus, raw: RawSubscriber) -> None:
    for number in range(1, 51):
        bus.send("a", "b", "/1", number)
    assert frames(raw, 50) == [(number, [number]) for number in range(1, 51)]


@pytest.mark.parametrize("twin", [zbus.Bus, aio.Bus])
def test_a_bad_value_is_refused(zbus_dir: str, twin: Any) -> None:
    for bad in (-1, float("nan")):
        with pytest.raises(zbus.Invalid, match="coalesce is"):
            twin(coalesce=bad)
    for wrong in ("1", True, [1]):
        with pytest.raises(TypeError, match="coalesce must be seconds"):
            twin(coalesce=wrong)


@pytest.mark.parametrize("seconds", [0.001, 0.05])
def test_what_is_held_goes_after_that_time(zbus_dir: str, bus: zbus.Bus, seconds: float) -> None:
    sub = bus.subscribe("a")
    with zbus.Bus(coalesce=seconds) as sender:
        for number in range(1000):
            sender.send("a", "b", "/1", number)
        assert [receive(sub).data for _ in range(1000)] == list(range(1000))


def test_a_stream_in_full_flow_does_not_wake_the_housekeeping_for_each_batch(
    zbus_dir: str, raw: RawSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    schedule = housekeeping.schedule

    def ask(task: Any, seconds: float) -> None:
        if "Coalescer" in task.__qualname__:
            asked.append(seconds)
        schedule(task, seconds)

    monkeypatch.setattr(housekeeping, "schedule", ask)
    with zbus.Bus(coalesce=LONG) as sender:
        hold(sender, 100 * ROWS)
        assert len(asked) == 1
        for number in range(100):  # nothing is held
            sender.send("a", "cd"[number % 2], "/1", number)
        assert len(asked) == 1


BETWEEN = {
    "another topic": lambda bus: bus.send("c", "b", "/1", 0),
    "another kind": lambda bus: bus.send("a", "c", "/1", 0),
    "bytes": lambda bus: bus.send("a", "b", "/1", b"0"),
    "a timeout": lambda bus: bus.send("a", "b", "/1", 0, timeout=30),
    "no timeout": lambda bus: bus.send("a", "b", "/1", 0, timeout=None),
    "send_many": lambda bus: bus.send_many("a", "b", [("/1", 0)]),
    "odd keys": lambda bus: bus.send("a", "b", "/1", {1: 2}),
    "an odd path": lambda bus: bus.send("a", "b", OddText("/1"), 0),
}


class OddText(str):
    """Text that says of itself what it is not."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 7


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_what_cannot_be_held_goes_after_what_is_held(
    sender: zbus.Bus, raw: RawSubscriber, between: Any
) -> None:
    hold(sender, 4)
    between(sender)
    got = frames(raw, 4)
    assert [len(data) for _, data in got] == [1, 1, 4, 1]
    assert got[2] == (3, [3, 4, 5, 6])
    assert raw.frames.empty()


def test_topics_in_turn_arrive_in_order(sender: zbus.Bus, bus: zbus.Bus) -> None:
    sub = bus.subscribe("*")
    sent = []
    for number in range(2000):
        kind = "xyz"[number % 3 if number % 50 < 25 else 0]
        sent.append((kind, number))
        sender.send("a", kind, "/1", number)
    sender.flush(30)
    got = [receive(sub) for _ in range(2000)]
    assert [(evt.kind, evt.data) for evt in got] == sent
    for kind in "xyz":
        numbers = [evt.seq for evt in got if evt.kind == kind]
        assert numbers == list(range(1, len(numbers) + 1))


class Kind(StrEnum):
    CREATED = "created"


def test_members_of_enums_and_equal_texts_are_one_topic(sender: zbus.Bus, raw: RawSubscriber) -> None:
    for number in range(1, 5):
        sender.send("a", Kind.CREATED, "/1", number)
    for number in range(5, 9):
        sender.send("".join(["a"]), "".join(["crea", "ted"]), "/1", number)
    sender.flush(30)
    got = frames(raw, 5)
    assert [seq for seq, _ in got] == [1, 2, 3, 5, 6]
    assert [number for _, data in got for number in data] == list(range(1, 9))


def test_a_text_that_compares_in_its_own_way_keeps_its_topic(sender: zbus.Bus, raw: RawSubscriber) -> None:
    odd = OddText("b")
    for number in range(1, 5):
        sender.send("a", odd, "/1", number)
    sender.send("a", "b", "/1", 5)
    assert frames(raw, 5) == [(number, [number]) for number in range(1, 6)]


# Stands for a fragment. One that is kept would slow down every other test of its process.
FRAGMENT = "a fragment"
BAD: list[tuple[Any, Any, Any, Any]] = [
    ("", "b", "/1", 1),
    ("zbus", "b", "/1", 1),
    ("a", "*", "/1", 1),
    (b"a", "b", "/1", 1),
    ("a", "b", "", 1),
    ("a", "b", "/\0", 1),
    ("a", "b", "/\ud800", 1),
    ("a", "b", 5, 1),
    ("a", "b", None, 1),
    ("a", "b", "/1", float("nan")),
    ("a", "b", "/1", [float("inf")]),
    ("a", "b", "/1", {"a": {1, 2}}),
    ("a", "b", "/1", "\ud800"),
    ("a", "b", "/1", 2**65),
    ("a", "b", "/1", FRAGMENT),
    ("a", "b", "/1", "x" * 5000),
    (["a"], "b", "/1", 1),
    ("a", {}, "/1", 1),
]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_what_send_refuses_is_refused_at_once_and_takes_no_number(
    zbus_dir: str, raw: RawSubscriber, bad: tuple[Any, Any, Any, Any]
) -> None:
    if bad[3] == FRAGMENT:
        bad = (*bad[:3], orjson.Fragment(b"no JSON"))
    with zbus.Bus(max_event_bytes=4000) as plain, pytest.raises((zbus.Invalid, TypeError)) as expected:
        plain.send(*bad)
    with zbus.Bus(coalesce=LONG, max_event_bytes=4000) as sender:
        hold(sender, 2)
        for _ in range(3):  # as an event of another topic, after a pause, and soon after the one before
            with pytest.raises(type(expected.value)) as refused:
                sender.send(*bad)
            assert str(refused.value) == str(expected.value)
        hold(sender, 2, first=5)
        sender.flush(30)
    got = frames(raw, 1)
    while sum(len(data) for _, data in got) < 6:
        got += frames(raw, 1)
    assert [number for _, data in got for number in data] == list(range(1, 7))
    seq = 1
    for first, data in got:
        assert first == seq
        seq += len(data)


def test_data_may_be_changed_after_send(sender: zbus.Bus, raw: RawSubscriber) -> None:
    hold(sender, 0)
    data: dict[str, Any] = {"state": ["new"]}
    sender.send("a", "b", "/1", data)
    data["state"].append("old")
    sender.send("a", "b", "/1", data)
    del data["state"]
    sender.flush(30)
    assert frames(raw, 3)[2] == (3, [{"state": ["new"]}, {"state": ["new", "old"]}])


@pytest.mark.parametrize("data", [None, [None], {"a": None}, "null", FRAGMENT], ids=repr)
def test_odd_data_is_held_too(sender: zbus.Bus, bus: zbus.Bus, data: Any) -> None:
    sub = bus.subscribe("a")
    for _ in range(6):
        sender.send("a", "b", "/null", orjson.Fragment(b"[1,  2]") if data == FRAGMENT else data)
    sender.flush(30)
    expected = [1, 2] if data == FRAGMENT else data
    assert [receive(sub).data for _ in range(6)] == [expected] * 6


def test_a_fragment_as_deep_as_it_may_be_arrives(sender: zbus.Bus, bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    for depth in (1024, 900):  # older Pythons check less deep ones only
        deep = orjson.Fragment(b"[" * depth + b"]" * depth)
        with suppress(zbus.Invalid):
            sender.send("x", "b", "/1", deep)
            break
    for _ in range(5):
        sender.send("a", "b", "/1", deep)
    sender.flush(30)
    assert [receive(sub).seq for _ in range(5)] == list(range(1, 6))


@pytest.mark.parametrize("limit", [276, 300, 400, 1000])
def test_a_tiny_limit_is_kept(zbus_dir: str, bus: zbus.Bus, limit: int) -> None:
    with zbus.Bus(max_event_bytes=limit) as listener, listener.subscribe("a") as sub:
        with zbus.Bus(coalesce=LONG, max_event_bytes=limit) as sender:
            for number in range(100):
                sender.send("a", "b", "/1", number)
            sender.flush(30)
            assert [receive(sub).data for _ in range(100)] == list(range(100))
        assert sub.channel().malformed == sub.lost == 0


def test_who_has_joined_gets_what_is_sent_then(sender: zbus.Bus, bus: zbus.Bus) -> None:
    for round_ in range(20):
        hold(sender, 3, kind=f"k{round_}")
        sub = bus.subscribe("a")
        sender.send("a", f"k{round_}", "/1", 6)
        sender.flush(30)
        got = [receive(sub).data]
        while got[-1] != 6:
            got.append(receive(sub).data)
        assert got == list(range(7 - len(got), 7))
        assert sub.lost == 0
        sub.close()


def test_what_is_held_while_somebody_joins_is_counted_if_there_is_no_room(
    sender: zbus.Bus, bus: zbus.Bus
) -> None:
    hold(sender, 2)
    sub = bus.subscribe("*", capacity=2)
    with zbus.Bus() as other:
        for number in range(20):
            other.send("c", "d", "/1", number)
    until_quiet()
    sender.flush(30)
    until_quiet()
    sender.close()
    account(sub, 22)
    assert [gap[1:] for gap in sub.channel().gaps if gap.system == "a"] == [("a", "b", 3, 4)]


def test_a_full_subscriber_makes_send_wait_and_what_is_held_goes_first(
    sender: zbus.Bus, bus: zbus.Bus
) -> None:
    sub = bus.subscribe("a", overflow="block", capacity=10)
    sent = fill(lambda number: sender.send("a", "b", "/1", number, timeout=0.05))
    hold(sender, ROWS, first=sent + 1)  # these need no room yet
    last = sent + ROWS
    with pytest.raises(zbus.Timeout, match="so the event went to nobody") as caught:
        sender.send("a", "c", "/1", "nobody", timeout=0.1)
    assert caught.value.details["subscribers"]
    got: list[Any] = []
    reader = threading.Thread(target=lambda: [got.append(receive(sub)) for _ in range(last + 1)])
    reader.start()
    sender.send("a", "d", "/1", "last", timeout=60)
    reader.join()
    assert [evt.data for evt in got] == [*range(1, last + 1), "last"]
    assert sub.lost == 0
