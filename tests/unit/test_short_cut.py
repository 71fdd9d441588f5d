"""The channel's short cut must give the same answers as `wire.decode`, for good frames and bad."""

from __future__ import annotations

from random import Random

import pytest

from zbus.event import Event, Gap
from zbus.protocol import decoder, wire
from zbus.protocol.decoder import Decoder
from zbus.protocol.loss import MAX_GAP
from zbus.protocol.patterns import Matcher

from .frames import known, mutated, noise


class Plain:
    """What a channel must make of frames, in the plainest way; it joined late, so no stream is due at 1."""

    def __init__(self, system: Matcher, kind: Matcher | None) -> None:
        self.system = system
        self.kind = kind
        self.malformed = 0
        self.gaps: list[Gap] = []
        self.due: dict[tuple[str, str, str], int] = {}
        self.begin: dict[tuple[str, str, str], int] = {}

    def take(self, data: bytes) -> list[Event]:
        if data.startswith(wire.CONTROL):
            return []
        try:
            if not self.selects(*wire.decode_topic(data.split(b"\0", 4))):
                return []
            frame = wire.decode(data)
        except wire.Malformed:
            self.malformed += 1
            return []
        if frame.stamp.origin:
            stream = (frame.stamp.origin, frame.system, frame.kind)
            _, seq, _, settled, first, _ = frame.stamp
            due = self.due.get(stream, first if settled >= 0 and 0 < first <= seq else seq)
            if seq - due > MAX_GAP:
                self.malformed += 1
                return []
            begin = self.begin.setdefault(stream, due)
            if stream in self.due and not frame.events and settled >= 0 and 0 < first < begin:
                self.gaps.append(Gap(*stream, first, begin - 1))
                self.begin[stream] = first
            if seq > due:
                self.gaps.append(Gap(*stream, due, seq - 1))
            if frame.events or seq > due or stream not in self.due:
                self.due[stream] = seq + len(frame.events)
        return frame.events

    def selects(self, system: str, kind: str) -> bool:
        return self.system.matches(system) and (self.kind is None or self.kind.matches(kind))


class Pair:
    """A channel and what it is held against, given the same frames."""

    def __init__(self, system: str = "**", kind: str | None = None) -> None:
        matchers = Matcher(system), None if kind is None else Matcher(kind)
        self.plain = Plain(*matchers)
        self.decoder = Decoder(*matchers)
        self.decoder.joined(-1, 2**63)

    def take(self, frame: bytes) -> list[Event]:
        """Return the frame's events if both agree on them."""
        expected = self.plain.take(frame)
        event = self.decoder.decode(frame)
        events = list(self.decoder.batch or ()) if event is None else [event]
        self.decoder.batch = None
        assert [shown(one) for one in events] == [shown(one) for one in expected], frame
        assert list(self.decoder.gaps) == self.plain.gaps[-1000:], frame
        return events


def shown(event: Event) -> str:
    """Return a text that also tells `1` from `True`."""
    return repr((*event._fields(), event.time))


ENDS = ("", ".5.x", ".81234567890", ".5.9.1.1764192207000001", "....7", ".5.9.1.", ".5.9.1.7.8", ".5.9.1.-7")


def stream_frames(random: Random) -> list[bytes]:
    """Return frames as ten publishers would send them: in order, mostly stamped, now and then one lost."""
    frames: list[bytes] = []
    topics = [
        (f"{system}\0{kind}\0", f"{origin:08x}" if origin else "")
        for system in ("orders", "orders.eu", "users")
        for kind in ("created", "gone")
        for origin in (0, 0xDEADBEEF, 0x12345678)
    ]
    due = dict.fromkeys(topics, 1)
    while len(frames) < 2000:
        topic = random.choice(topics)
        for _ in range(random.choice((1, 1, 5))):
            if random.random() < 0.05:
                due[topic] = max(1, due[topic] + random.randint(-1, 3))
            path, data, count = random.choice(PAYLOADS)
            stamp = f"{topic[1]}.{due[topic]}{random.choice(ENDS)}"
            due[topic] += count
            frames.append(f"{topic[0]}{path}\0{stamp if topic[1] else ''}\0".encode() + data)
    return frames


PAYLOADS = [
    ("/p", b'{"total":9.5}', 1),
    ("/p", b'"text"', 1),
    ("/p", b"0", 1),
    ("/p", b"", 1),
    ("/p", b"\0raw\0bytes", 1),
    ("/p", b"\0", 1),
    ("", b'[["/a",1],["/b",[]]]', 2),
    ("", b'[["/a"]]', 1),
]


def test_it_agrees_on_what_publishers_send() -> None:
    random = Random(1)
    pair = Pair()
    for frame in stream_frames(random):
        pair.take(frame)
    assert pair.decoder.malformed == pair.plain.malformed == 0
    assert pair.decoder.lost == sum(gap.events for gap in pair.plain.gaps) > 0


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_on_damaged_frames(seed: int) -> None:
    random = Random(seed)
    pair = Pair()
    for good in stream_frames(random):
        roll = random.random()
        pair.take(mutated(good, random) if roll < 0.4 else noise(random) if roll < 0.5 else good)
        assert pair.decoder.malformed == pair.plain.malformed, good
    assert pair.plain.malformed > 100


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_on_what_a_filter_lets_through(seed: int) -> None:
    random = Random(seed)
    pair = Pair("orders.*", "created")
    for good in stream_frames(random):
        pair.take(mutated(good, random) if random.random() < 0.3 else good)
        # A bad frame of a topic that is filtered out does not count.
        assert pair.decoder.malformed == pair.plain.malformed, good
    assert pair.decoder.malformed > 0


def test_it_agrees_on_the_conformance_vectors_in_any_order() -> None:
    random = Random(7)
    pair = Pair()
    frames = known() * 20
    random.shuffle(frames)
    for frame in frames:
        pair.take(frame)
        assert pair.decoder.malformed == pair.plain.malformed, frame


STAMPS = [
    b"5.1",
    b".5.1",
    b".-1.1",
    b"0123abcd.05.1",
    b"0123abcd.5",
    b"0123abcd.5.",
    b"0123abcd.5.x",
    b"0123abcd.5.1.x",
    b"0123abcd.5....",
    b"0123abcd.5....9",
    b"0123abcd.5.1.2.3.9",
    b"0123abcd.5.1.2.3.9.",
    b"0123abcd.5.1.2.3.9.x",
    b"0123abcd.5.1.2.3.-9",
    b"0123abcd.5.1.2.3. 9",
    b"0123abcd.5.1.2.3.9_9",
    b"0123abcd.5.1.2.3.\xd9\xa5",
    b"0123abcd.5.1.2.3.1234567890123456789",
    b"0123abcd.5.1.2.3.12345678901234567890",
    b"0123abcd.+5.1",
    b"0123abcd. 5.1",
    b"0123abcd.5 .1",
    b"0123abcd.5\n.1",
    b"0123abcd.0_5.1",
    b"0123abcd.0x5.1",
    b"0123abcd.-5.1",
    b"0123abcd.0.1",
    b"0123abcd..1",
    b"0123abcd.\xd9\xa5.1",  # a digit, but not an ASCII one
    b"0123ABCD.5.1",
]


@pytest.mark.parametrize("path", [b"/p", b"", b"\xff"])
@pytest.mark.parametrize("stamp", STAMPS)
def test_it_agrees_on_an_odd_stamp_where_number_5_is_due(stamp: bytes, path: bytes) -> None:
    pair = Pair()
    for seq in (b"3", b"4"):
        assert pair.take(b"s\0k\0/p\x000123abcd." + seq + b".1\0true")
    for data in (b"{}", b'[["/a",1]]', b""):
        pair.take(b"s\0k\0" + path + b"\0" + stamp + b"\0" + data)
    assert pair.decoder.malformed == pair.plain.malformed


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\1", b"\1", b"\1{}", b" ", b" 1", b"0", b"nul", b"null", b'{"a":1}\0', b"\xff"]
)
def test_it_agrees_on_odd_data_where_number_5_is_due(data: bytes) -> None:
    pair = Pair()
    pair.take(b"s\0k\0/p\x000123abcd.4.1\0true")
    pair.take(b"s\0k\0/p\x000123abcd.5.1\0" + data)
    pair.take(b"s\0k\0/p\x000123abcd.6.1\0true")
    assert pair.decoder.malformed == pair.plain.malformed


def test_an_empty_origin_never_passes_for_a_stream_without_a_stamp() -> None:
    pair = Pair()
    pair.take(b"\0\0/p\0.0.5\0{}")
    pair.take(b"s\0k\0/p\0\0true")
    pair.take(b"s\0k\0/p\0.0.5\0true")
    pair.take(b"s\0k\0/p\0.1.5\0true")
    assert pair.decoder.malformed == pair.plain.malformed == 3


def test_a_malformed_frame_does_not_move_what_is_due() -> None:
    pair = Pair()
    pair.take(b"s\0k\0/p\x000123abcd.4.1\0true")
    assert not pair.take(b"s\0k\0/p\x000123abcd.5.1\0oops")
    assert pair.take(b"s\0k\0/p\x000123abcd.5.1\0true")
    assert pair.decoder.lost == 0


def test_frames_of_a_known_stream_that_is_not_selected_are_not_even_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Since a process may get many of them: prefixes admit more than patterns select."""
    pair = Pair("s.*", "k")
    assert pair.take(b"s.t\0other\0/p\x000123abcd.1.1\0true") == []
    monkeypatch.setattr(decoder, "decode_fields", None)
    assert pair.take(b"s.t\0other\0/p\x000123abcd.2.1\0true") == []


@pytest.mark.parametrize("frame", [b"\xff", b"\xff0123abcd/7", b"\xff0123abcd.7", b"\xffs\0k\0/p\0\0"])
def test_a_control_frame_is_neither_an_event_nor_malformed(frame: bytes) -> None:
    pair = Pair()
    assert pair.take(frame) == []
    assert pair.decoder.malformed == 0
