"""What publishers write on the wire: numbers, times and origins, as a subscriber of bytes sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import zbus
from zbus.sending import publisher, streams

from .process import receive
from .raw import RawSubscriber, clock, joined, stamp_of, touch


@pytest.fixture
def raw(bus: zbus.Bus, zbus_dir: str) -> Iterator[RawSubscriber]:
    with joined(zbus_dir, b"") as made:
        yield made


def test_a_stream_is_numbered_from_1_without_holes(bus: zbus.Bus, raw: RawSubscriber) -> None:
    bus.send("a", "b", "/1", 1)
    bus.send("a", "b", "/1", 2)
    bus.send_many("a", "b", [("/1", 3), ("/1", 4), ("/1", 5)])
    bus.send("a", "b", "/1", 6)
    bus.send("a", "other", "/1", 1)
    stamps = [stamp_of(raw.receive()) for _ in range(5)]
    assert [stamp.seq for stamp in stamps] == [1, 2, 3, 6, 1]
    assert len({stamp.origin for stamp in stamps}) == 1


def test_what_is_refused_takes_no_number(bus: zbus.Bus, raw: RawSubscriber) -> None:
    bus.send("a", "b", "/1", 1)
    for data in ("x" * 20_000_000, float("nan"), object()):
        with pytest.raises(zbus.Invalid):
            bus.send("a", "b", "/1", data)
    with pytest.raises(zbus.Invalid):
        bus.send_many("a", "b", [("/1", "x" * 20_000_000)])
    bus.send("a", "b", "/1", 2)
    assert [stamp_of(raw.receive()).seq for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("many", [False, True])
def test_a_frame_has_the_limit_to_the_byte_whether_its_topic_is_new_or_not(zbus_dir: str, many: bool) -> None:
    limit = 1_000
    with zbus.Bus(dir=zbus_dir, max_event_bytes=limit) as bus, joined(zbus_dir, b"") as raw:

        def send(kind: str, size: int) -> int:
            if many:
                bus.send_many("a", kind, [("/1", "x" * size)])
            else:
                bus.send("a", kind, "/1", "x" * size)
            return len(raw.receive())

        rest = limit - send("k0", 0)
        assert send("k1", rest) == limit
        assert send("k1", rest) == limit
        for kind in ("k1", "k2", "k1"):
            with pytest.raises(zbus.Invalid, match="1,001 bytes, more than max_event_bytes=1,000"):
                send(kind, rest + 1)
        assert send("k2", rest) == limit


def test_a_topic_keeps_the_time_it_was_born_and_is_younger_than_one_before(
    bus: zbus.Bus, zbus_dir: str, raw: RawSubscriber
) -> None:
    before = clock()
    bus.send("a", "b", "/1")
    between = clock()
    bus.send("a", "c", "/1")
    bus.send("a", "b", "/2")
    touch(raw.directory)
    bus.send("a", "b", "/3")
    first, other, *later = (stamp_of(raw.receive()).born for _ in range(4))
    assert later == [first, first]
    assert before <= first <= between <= other <= clock()


def test_a_settling_is_told_on_every_frame_with_the_first_number_since(
    bus: zbus.Bus, raw: RawSubscriber
) -> None:
    bus.send("a", "b", "/1")
    bus.send("a", "b", "/2")
    between = clock()
    touch(raw.directory)
    bus.send("a", "b", "/3")
    bus.send("a", "b", "/4")
    bus.send("a", "c", "/1")
    stamps = [stamp_of(raw.receive()) for _ in range(5)]
    assert [stamp.first for stamp in stamps] == [1, 1, 3, 3, 1]
    before, after = {stamp.settled for stamp in stamps[:2]}, {stamp.settled for stamp in stamps[2:]}
    assert len(before) == len(after) == 1
    assert before.pop() <= between <= after.pop() <= clock()


class Dated:
    """Stands in for the mapped token: notes when it was read, and lets the clock move on before the next."""

    def __init__(self, token: memoryview) -> None:
        self._token = token
        self.read: list[int] = []

    def __getitem__(self, index: int) -> int:
        value = self._token[index]
        self.read.append(clock())
        while clock() == self.read[-1]:
            pass
        return value

    def release(self) -> None:
        self._token.release()


def test_the_time_of_a_settling_is_from_before_its_token_was_read(bus: zbus.Bus, raw: RawSubscriber) -> None:
    bus.send("a", "b", "/1")
    raw.receive()
    dated = Dated(bus._node._roster.token)
    bus._node._roster.token = dated  # type: ignore[assignment]
    touch(raw.directory)
    bus.send("a", "b", "/2")
    # Read once to begin, then by the listing and at the end.
    assert len(dated.read) >= 2
    assert stamp_of(raw.receive()).settled <= dated.read[0]


def test_the_head_of_a_stream_in_use_is_counted_when_it_is_lost_after_the_join(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    """The channel would take what comes first for the first that was meant for it."""
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/early")
        every = bus.subscribe("a")
        sub = bus.subscribe("*", capacity=2)
        for number in range(2):
            sender.send("full", "b", "/1", number)
        for number in range(5):
            sender.send("a", "b", "/1", number)
        for number in range(5):
            assert receive(every).data == number
        assert [receive(sub).data for _ in range(2)] == [0, 1]
        sender.send("a", "b", "/1", 5)
        assert receive(sub).data == 5
        assert sub.lost == 5
        assert [(gap.kind, gap.first, gap.last) for gap in sub.channel().gaps] == [("b", 2, 6)]


def test_one_topic_too_many_begins_a_new_origin_for_all(
    bus: zbus.Bus, raw: RawSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_TOPICS", 3)
    for kind in ("k0", "k1", "k2", "k0", "k3", "k0", "k1", "k4"):
        bus.send("a", kind, "/1")
    stamps = [stamp_of(raw.receive()) for _ in range(8)]
    assert [stamp.seq for stamp in stamps] == [1, 1, 1, 2, 1, 1, 1, 1]
    origins = [stamp.origin for stamp in stamps]
    assert [origins.index(origin) for origin in origins] == [0, 0, 0, 0, 4, 4, 4, 7]
    assert stamps[5].born > stamps[3].born


def test_whoever_joins_while_a_topic_is_new_gets_it_from_number_1(zbus_dir: str) -> None:
    """A policy that subscribes: the latest moment at which somebody else may join before the first event."""
    late: list[zbus.Subscription] = []
    with zbus.Bus(dir=zbus_dir) as other:

        def policy(action: str, resource: str) -> bool:
            if resource == "new":
                late.append(other.subscribe("new"))
            return True

        with zbus.Bus(dir=zbus_dir, policy=policy) as bus:
            bus.send("a", "b", "/1")
            bus.send("new", "b", "/1", 1)
            evt = receive(late[0])
            assert (evt.data, evt.seq, late[0].lost) == (1, 1, 0)


def test_whoever_joins_at_the_moment_a_topic_is_born_gets_it_from_number_1(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time comes first and then the token, so that who is missing from the links is not owed number 1."""
    late: list[zbus.Subscription] = []
    with zbus.Bus(dir=zbus_dir) as other:

        def joining() -> int:
            if not late:
                late.append(other.subscribe("new"))
            return clock()

        bus.send("a", "b", "/1")
        monkeypatch.setattr(publisher, "clock", joining)
        bus.send("new", "b", "/1", 1)
        bus.send("new", "b", "/1", 2)
        evt = receive(late[0])
        assert (evt.data, evt.seq, late[0].lost) == (1, 1, 0)


def test_whoever_joins_while_a_publisher_settles_gets_the_next_event_of_a_topic_in_use(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token that moves after the listing is seen before anything is sent."""
    with zbus.Bus(dir=zbus_dir) as other, joined(zbus_dir, b"a\0") as raw:
        bus.send("a", "b", "/1")
        late: list[zbus.Subscription] = []
        entries = bus._node._roster.entries

        def stale() -> object:
            found = entries()
            if not late:
                late.append(other.subscribe("a"))
            return found

        monkeypatch.setattr(bus._node._roster, "entries", stale)
        touch(raw.directory)
        bus.send("a", "b", "/2")
        assert receive(late[0]).path == "/2"


def test_a_denied_topic_is_denied_each_time(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, policy=lambda _, system: system != "secret") as bus:
        for use in (
            lambda: bus.send("secret", "b", "/1"),
            lambda: bus.send("secret", "b", "/1"),
            lambda: bus.send("secret", "b", "/1", timeout=1),
            lambda: bus.send_many("secret", "b", [("/1", 1)]),
            lambda: bus.send("secret", "b", "/1"),
        ):
            with pytest.raises(zbus.Invalid, match="not allowed to send events to system: secret"):
                use()
