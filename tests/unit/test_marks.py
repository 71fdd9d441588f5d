"""Marks: a joiner that was given up is told exactly what it missed, and nobody else is told anything."""

from __future__ import annotations

import pytest

from zbus.event import Gap
from zbus.protocol.decoder import Decoder
from zbus.protocol.loss import MAX_GAP
from zbus.protocol.marks import MAX_MARKS, Marks, Topic, decode_twin, mark_frames
from zbus.protocol.patterns import Matcher
from zbus.protocol.sentinels import sentinel
from zbus.protocol.wire import NOTICE, TWIN, Stamp, decode, frame_template

ORIGIN = "0123abcd"


def frame(
    seq: int, settled: int, first: int, data: bytes = b"true", path: str = "/p", born: int = 5
) -> bytes:
    return f"s\0k\0{path}\0{ORIGIN}.{seq}.{born}.{settled}.{first}\0".encode() + data


def mark(seq: int, settled: int, first: int) -> bytes:
    return frame(seq, settled, first, b"[]", path="")


def gap(first: int, last: int) -> Gap:
    return Gap(ORIGIN, "s", "k", first, last)


class Channel:
    """A channel that joined at 100."""

    def __init__(self, pattern: str = "s") -> None:
        self.decoder = Decoder(Matcher(pattern), None)
        self.decoder.joined(100, 110)

    def take(self, *frames: bytes) -> list[Gap]:
        """Take frames; return the gaps that they showed."""
        before = len(self.decoder.gaps)
        for one in frames:
            self.decoder.decode(one)
            while self.decoder.rest() is not None:
                pass
        return [*self.decoder.gaps][before:]


def test_a_mark_tells_the_numbers_before_those_that_are_counted() -> None:
    channel = Channel()
    assert channel.take(frame(8, settled=300, first=7)) == [gap(7, 7)]
    assert channel.take(mark(9, settled=200, first=4)) == [gap(4, 6)]
    assert channel.take(frame(9, settled=300, first=7)) == []
    assert channel.decoder.lost == 4


def test_a_mark_that_comes_first_tells_everything_before_its_number() -> None:
    channel = Channel()
    assert channel.take(mark(9, settled=200, first=4)) == [gap(4, 8)]
    assert channel.take(frame(9, settled=300, first=9)) == []


def test_a_mark_that_comes_twice_tells_once() -> None:
    channel = Channel()
    channel.take(frame(7, settled=300, first=7))
    assert channel.take(mark(8, 200, 4), mark(8, 200, 4)) == [gap(4, 6)]


def test_two_marks_tell_the_longer_absence() -> None:
    channel = Channel()
    channel.take(frame(9, settled=400, first=9))
    assert channel.take(mark(10, 300, 6)) == [gap(6, 8)]
    assert channel.take(mark(10, 200, 4)) == [gap(4, 5)]


def test_a_mark_shows_a_lost_tail() -> None:
    channel = Channel()
    channel.take(frame(1, settled=200, first=1))
    assert channel.take(mark(5, settled=200, first=1)) == [gap(2, 4)]
    assert channel.take(frame(5, settled=200, first=1)) == []


def test_a_mark_that_is_overtaken_does_not_move_what_is_due() -> None:
    channel = Channel()
    channel.take(frame(7, 300, 7), frame(8, 300, 7))
    assert channel.take(mark(7, 200, 7)) == []
    assert channel.take(frame(9, 300, 7)) == []


@pytest.mark.parametrize("settled", [50, 100])
def test_to_a_channel_that_joined_later_a_mark_says_nothing(settled: int) -> None:
    channel = Channel()
    assert channel.take(mark(7, settled, first=4)) == []
    assert channel.take(frame(9, settled=300, first=9)) == []
    assert channel.take(mark(10, settled, first=4)) == []
    assert channel.decoder.lost == 0


def test_to_a_channel_that_missed_nothing_a_mark_says_nothing() -> None:
    channel = Channel()
    channel.take(frame(4, 200, 4), frame(5, 300, 5))
    assert channel.take(mark(6, 200, 4)) == []


def test_a_mark_of_a_topic_that_is_not_selected_says_nothing() -> None:
    channel = Channel("(a|b)")
    assert channel.take(frame(9, 300, 9), mark(10, 200, 4)) == []
    assert channel.decoder.malformed == 0


def test_a_batch_without_items_and_without_a_stamp_is_malformed() -> None:
    channel = Channel()
    channel.take(b"s\0k\0\0\0[]")
    assert channel.decoder.malformed == 1


@pytest.mark.parametrize("seq", [10**19 - 1, 2**63, MAX_GAP + 3])
@pytest.mark.parametrize("born", [5, 1000])
def test_a_gap_wider_than_a_stream_can_have_makes_its_frame_malformed(seq: int, born: int) -> None:
    channel = Channel()
    channel.take(frame(1, 200, 1, born=born))
    assert channel.take(frame(seq, 200, 1, born=born), mark(seq, 200, 1)) == []
    assert channel.decoder.malformed == 2
    assert channel.take(frame(3, 200, 1, born=born)) == [gap(2, 2)]


def test_a_young_stream_cannot_begin_further_than_a_stream_can_get() -> None:
    channel = Channel()
    assert channel.take(frame(10**18, 200, 0, born=1000)) == []
    assert (channel.decoder.lost, channel.decoder.malformed) == (0, 1)


def test_the_widest_gap_is_counted() -> None:
    channel = Channel()
    channel.take(frame(1, 200, 1))
    assert channel.take(frame(MAX_GAP + 2, 200, 1)) == [gap(2, MAX_GAP + 1)]


@pytest.mark.parametrize("path", ["(s|t)", "other", "s.**"])
@pytest.mark.parametrize(
    "taken",
    [
        [],
        [frame(7, 300, 7)],
        [frame(7, 300, 7), frame(8, 300, 7)],
        [frame(7, 90, 7)],
        [frame(7, 300, 7), mark(8, 200, 4)],
        [frame(1, 300, 1, born=200)],
        [frame(7, 300, 7, born=200)],
    ],
)
@pytest.mark.parametrize(
    "late",
    [
        mark(1, 200, 1),
        mark(7, 90, 4),
        mark(7, 200, 4),
        mark(8, 300, 7),
        mark(9, 300, 7),
        mark(9, 300, 0),
        mark(MAX_GAP + 9, 300, 7),
        mark(MAX_GAP + 9, 90, 7),
        frame(9, 300, 7, b"[]", path="", born=200),
        f"s\0k\0\0{ORIGIN}.9\0[]".encode(),
    ],
)
def test_a_channel_has_accounted_for_a_mark_that_would_tell_it_nothing(
    path: str, taken: list[bytes], late: bytes
) -> None:
    channel = Channel(path)
    channel.take(*taken)
    twin = decode_twin(TWIN + late)
    assert twin is not None
    told = channel.decoder.accounted(twin)
    assert channel.decoder.accounted(twin) == told
    assert told == (channel.take(late) == [])
    assert channel.decoder.accounted(twin)


def test_a_channel_that_has_not_joined_yet_has_accounted_for_no_mark() -> None:
    decoder = Decoder(Matcher("s"), None)
    twin = decode_twin(TWIN + mark(9, 200, 4))
    assert twin is not None
    assert not decoder.accounted(twin)
    decoder.joined(250, 260)
    assert decoder.accounted(twin)


@pytest.mark.parametrize(
    "other",
    [
        mark(9, 200, 4),
        b"\xff$" + mark(9, 200, 4),
        TWIN,
        TWIN + b"s\0k\0\0\0[]",
        TWIN + b"s\0k\0\0x.1\0[]",
        TWIN + frame(9, 200, 4),
        TWIN + frame(9, 200, 4, b'[["/1"]]', path=""),
        NOTICE + b"s\0k\0" + b"1",
    ],
)
def test_what_is_no_twin_is_none(other: bytes) -> None:
    assert decode_twin(other) is None


def topic(system: str, settled: int, first: int, seq: int) -> Topic:
    made = Topic(5)
    made.first, made.seq = first, seq
    made.template = frame_template(system, "k", Stamp(ORIGIN, 0, 5, settled, first))
    return made


def send(marks: Marks, *, in_doubt: bool = False) -> list[tuple[str, int, int, int]]:
    """Send all marks that are owed; return what they say."""
    sent = []
    while len(marks):
        owed = marks.take()
        frames = mark_frames(*owed, b"99")
        assert frames[1] == TWIN + frames[0]
        one = decode(frames[0])
        assert one.events == []
        assert one.stamp.time == 99
        sent.append((one.system, one.stamp.seq, one.stamp.settled, one.stamp.first))
        if in_doubt:
            marks.doubt(*owed)
    return sent


def test_a_mark_is_owed_for_each_topic_that_has_had_events_since_the_last_one() -> None:
    marks, topics = Marks(), [topic("a", 200, 1, 3), topic("b", 200, 2, 2), topic("c", 200, 1, 0)]
    marks.owe_unmarked(topics)
    assert send(marks) == [("a", 4, 200, 1), ("b", 3, 200, 2)]
    marks.owe_unmarked(topics)
    assert send(marks) == []
    topics[0].seq = 5
    marks.owe_unmarked(topics)
    assert send(marks) == [("a", 6, 200, 1)]


def test_a_topic_that_was_not_used_since_a_settling_owes_nothing_for_it() -> None:
    assert topic("a", 200, 4, 4).unmarked
    assert not topic("a", 200, 4, 3).unmarked
    marks = Marks()
    marks.owe_unmarked([topic("a", 200, 4, 3)])
    assert len(marks) == 0


def test_marks_in_doubt_are_owed_again_the_oldest_first_with_the_latest_number() -> None:
    marks, one = Marks(), topic("a", 200, 1, 3)
    marks.owe_unmarked([one])
    assert send(marks, in_doubt=True) == [("a", 4, 200, 1)]
    one.first, one.seq = 4, 6
    one.template = frame_template("a", "k", Stamp(ORIGIN, 0, 5, 300, 4))
    marks.owe_unmarked([one])
    marks.owe_again()
    assert send(marks, in_doubt=True) == [("a", 7, 200, 1), ("a", 7, 300, 4)]
    marks.trust()
    marks.owe_again()
    assert send(marks) == []


def test_what_is_owed_is_bounded_and_the_oldest_is_forgotten() -> None:
    marks = Marks()
    every = [topic(f"s{number}", 200, 1, 1) for number in range(MAX_MARKS + 2)]
    marks.owe_unmarked(every)
    assert len(marks) == MAX_MARKS
    assert send(marks, in_doubt=True)[0][0] == "s2"
    marks.owe_again()
    assert len(marks) == MAX_MARKS


@pytest.mark.parametrize("ident", ["00000000", "ffffffffffffffff"])
def test_a_new_connection_subscribes_twins_and_notices_before_its_sentinel(ident: str) -> None:
    """libzmq subscribes in the order of bytes, and a publisher that has read the sentinel sends."""
    assert sorted([sentinel(ident, 1), TWIN, NOTICE]) == [NOTICE, TWIN, sentinel(ident, 1)]
