"""Marks: a joiner that was given up is told exactly what it missed, and nobody else is told anything."""

from __future__ import annotations

import pytest

from zbus.event import Gap
from zbus.protocol.decoder import Decoder
from zbus.protocol.loss import MAX_GAP
from zbus.protocol.marks import Marks, Topic
from zbus.protocol.patterns import Matcher
from zbus.protocol.wire import decode

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


def made(marks: Marks) -> list[tuple[str, int, int, int]]:
    frames = map(decode, marks.waiting)
    return sorted((one.system, one.stamp.seq, one.stamp.settled, one.stamp.first) for one in frames)


def test_a_joiner_is_told_of_each_topic_that_was_sent_to_since_it_was_left_out() -> None:
    marks, topics = Marks(), {name: Topic(5) for name in "abc"}
    topics["a"].seq, topics["b"].seq = 10, 20
    for name in "ab":
        marks.note((ORIGIN, name, "k"), topics[name], [200])
        topics[name].seq += 3
    marks.note((ORIGIN, "a", "k"), topics["a"], [200])  # once more, since it settled again
    marks.tell([200], b"9")
    assert made(marks) == [("a", 14, 200, 11), ("b", 24, 200, 21)]


def test_each_joiner_is_told_from_when_it_was_left_out() -> None:
    marks, topic = Marks(), Topic(5)
    marks.note((ORIGIN, "a", "k"), topic, [200])
    topic.seq = 3
    marks.note((ORIGIN, "a", "k"), topic, [200, 300])
    topic.seq = 5
    marks.tell([300], b"9")
    assert made(marks) == [("a", 6, 300, 4)]
    marks.keep([200])
    marks.waiting.clear()
    marks.tell([200, 300], b"9")
    assert made(marks) == [("a", 6, 200, 1)]
