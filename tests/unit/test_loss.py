"""Loss accounting: exact where it can be, and never too much."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus.event import Gap
from zbus.protocol.loss import MAX_TOPICS, Streams

ORIGIN = "0123abcd"


class Receiver:
    """Does with `Streams` what a channel does, and keeps the gaps."""

    def __init__(self, limit: int = MAX_TOPICS, unwanted: str = "") -> None:
        self.judged: list[tuple[str, str]] = []
        self.unwanted = unwanted
        self.streams = Streams(self._wants, limit)
        self.gaps: list[Gap] = []

    def _wants(self, system: str, kind: str) -> bool:
        self.judged.append((system, kind))
        return system != self.unwanted

    def take(
        self,
        seq: int,
        *,
        born: int = -1,
        settled: int = -1,
        first: int = -1,
        system: str = "s",
        origin: str = ORIGIN,
        events: int = 1,
    ) -> list[Gap]:
        """Take the frame of `events` events that begins with `seq`; return the gap before it, if any."""
        key = (system.encode(), b"k", origin.encode())
        stream = self.streams.find(key) or self.streams.add(key)
        if stream.next < 0:
            stream.next = self.streams.due(seq, born, settled, first)
        gap = stream.jump(seq)
        if stream.next >= 0:
            stream.next = seq + events
        found = [] if gap is None else [gap]
        self.gaps += found
        return found


def gap(first: int, last: int, system: str = "s", origin: str = ORIGIN) -> Gap:
    return Gap(origin, system, "k", first, last)


def test_numbers_in_a_row_are_no_loss() -> None:
    receiver = Receiver()
    for seq in range(1, 100):
        assert receiver.take(seq) == []


def test_a_jump_is_a_gap_from_what_was_due_to_just_before_what_came() -> None:
    receiver = Receiver()
    receiver.take(1)
    assert receiver.take(5) == [gap(2, 4)]
    assert receiver.take(6) == []
    assert receiver.take(8) == [gap(7, 7)]


def test_a_batch_counts_each_of_its_events() -> None:
    receiver = Receiver()
    receiver.take(1, events=10)
    assert receiver.take(11, events=5) == []
    assert receiver.take(20) == [gap(16, 19)]


def test_streams_count_apart_by_origin_and_topic() -> None:
    receiver = Receiver()
    receiver.take(1)
    receiver.take(50, system="t")
    receiver.take(70, origin="deadbeef")
    assert receiver.take(3) == [gap(2, 2)]
    assert receiver.take(52, system="t") == [gap(51, 51, system="t")]
    assert receiver.take(72, origin="deadbeef") == [gap(71, 71, origin="deadbeef")]


def test_a_late_join_is_no_loss() -> None:
    assert Receiver().take(1_000_000) == []


def test_a_channel_that_does_not_know_when_it_joined_counts_from_what_comes_first() -> None:
    receiver = Receiver()
    receiver.streams.joined(-1, -1)
    assert receiver.take(7, born=1000, settled=1001, first=5) == []
    assert receiver.take(9, born=1000, settled=1001, first=5) == [gap(8, 8)]


def test_a_stream_born_before_the_join_is_counted_from_what_comes_first() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1000)
    assert receiver.take(7, born=999) == []
    assert receiver.take(7, born=1000, system="t") == []
    assert receiver.take(9, born=999) == [gap(8, 8)]


def test_a_stream_born_after_the_join_is_counted_from_one() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1000)
    assert receiver.take(7, born=1001) == [gap(1, 6)]
    assert receiver.take(1, born=1001, system="t") == []


def test_a_stream_that_does_not_tell_its_birth_is_counted_from_what_comes_first() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1000)
    assert receiver.take(7) == []


def test_a_restart_under_a_new_origin_is_no_loss() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1000)
    receiver.take(100, born=900)
    assert receiver.take(1, born=2000, origin="deadbeef") == []


def test_a_restart_under_the_same_origin_is_no_loss_and_counts_on_from_there() -> None:
    receiver = Receiver()
    receiver.take(100)
    assert receiver.take(1) == []
    assert receiver.take(2) == []
    assert receiver.take(4) == [gap(3, 3)]


def test_a_filtered_out_stream_loses_nothing() -> None:
    receiver = Receiver(unwanted="s")
    receiver.take(1)
    assert receiver.take(100) == []


def test_a_topic_is_judged_once() -> None:
    receiver = Receiver()
    for seq in range(1, 5):
        receiver.take(seq)
    receiver.take(1, system="t")
    assert receiver.judged == [("s", "k"), ("t", "k")]


def test_a_stream_shows_its_names_and_the_verdict() -> None:
    streams = Streams(lambda system, kind: (system, kind) == ("주문", "created"))
    stream = streams.add(("주문".encode(), b"created", b"deadbeef"))
    assert (stream.system, stream.kind, stream.origin) == ("주문", "created", "deadbeef")
    assert (stream.wanted, stream.next) == (True, -1)
    assert not streams.add((b"s", b"k", b"deadbeef")).wanted


def test_no_number_is_due_where_there_is_no_origin() -> None:
    streams = Streams(lambda system, kind: True)  # noqa: ARG005
    streams.joined(0, 0)
    assert streams.add((b"s", b"k", b"")).next < 0


def test_an_unknown_stream_is_not_found() -> None:
    assert Receiver().streams.find((b"s", b"k", b"0123abcd")) is None


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_at_most_twice_the_limit_is_known(limit: int) -> None:
    receiver = Receiver(limit)
    for number in range(10 * limit):
        receiver.take(1, system=f"s{number}")
        assert len(receiver.streams) <= 2 * limit


def test_a_stream_that_is_used_again_is_known_once() -> None:
    receiver = Receiver(limit=2)
    for system in ("a", "b", "c", "a", "a"):
        receiver.take(1, system=system)
    assert len(receiver.streams) == 3


def test_the_most_recently_used_streams_are_known_at_least_up_to_the_limit() -> None:
    random = Random(3)
    limit = 8
    receiver = Receiver(limit)
    recent: list[str] = []
    for _ in range(2000):
        system = f"s{random.randrange(40)}"
        before = len(receiver.judged)
        receiver.take(1, system=system)
        if system in recent[-limit:]:
            assert len(receiver.judged) == before, "forgotten too early"
            recent.remove(system)
        recent.append(system)


def test_a_stream_that_was_forgotten_and_comes_back_is_no_loss() -> None:
    receiver = Receiver(limit=2)
    receiver.streams.joined(1000, 1000)
    receiver.take(1, born=2000)
    for number in range(10):
        receiver.take(1, born=1500, system=f"s{number}")
    assert receiver.take(50, born=2000) == []


def test_a_stream_born_after_others_were_forgotten_is_still_counted_from_one() -> None:
    receiver = Receiver(limit=2)
    receiver.streams.joined(1000, 1000)
    for number in range(10):
        receiver.take(1, born=1500, system=f"s{number}")
    assert receiver.take(5, born=3000, system="t") == [gap(1, 4, system="t")]


TOPICS = 6
JOINED = 1000
# Of each topic: when it was born, and how many events it had sent before the channel joined.
births = st.lists(
    st.tuples(st.integers(JOINED + 1, JOINED + 50), st.just(0))
    | st.tuples(st.integers(JOINED - 50, JOINED), st.integers(0, 5)),
    min_size=TOPICS,
    max_size=TOPICS,
)
# Which topic sends how many events next, and whether they arrive.
sends = st.lists(st.tuples(st.integers(0, TOPICS - 1), st.integers(1, 3), st.booleans()), max_size=60)


def run(limit: int, births: list[tuple[int, int]], sends: list[tuple[int, int, bool]]) -> tuple[int, int]:
    """Return how many events `Streams` says were lost, and how many were: all but the lost tails."""
    receiver = Receiver(limit)
    receiver.streams.joined(JOINED, JOINED)
    due = [1 + sent for _, sent in births]
    waiting = [0] * TOPICS
    seen = [False] * TOPICS
    lost = 0
    for topic, events, arrives in sends:
        born = births[topic][0]
        if arrives:
            # What an older topic lost before it was ever seen cannot be told from a late join.
            if seen[topic] or born > JOINED:
                lost += waiting[topic]
            waiting[topic] = 0
            seen[topic] = True
            receiver.take(due[topic], born=born, system=f"s{topic}", events=events)
        else:
            waiting[topic] += events
        due[topic] += events
    return sum(found.events for found in receiver.gaps), lost


@given(births, sends)
def test_the_count_is_exact_while_all_topics_are_known(
    births: list[tuple[int, int]], sends: list[tuple[int, int, bool]]
) -> None:
    counted, lost = run(TOPICS, births, sends)
    assert counted == lost


@given(st.integers(1, TOPICS - 1), births, sends)
def test_forgetting_never_counts_too_much(
    limit: int, births: list[tuple[int, int]], sends: list[tuple[int, int, bool]]
) -> None:
    counted, lost = run(limit, births, sends)
    assert counted <= lost


def test_what_was_on_its_way_to_another_channel_may_have_holes() -> None:
    """A channel closed and this one joined: the publisher saw first the one, then the other."""
    receiver = Receiver()
    receiver.streams.joined(1000, 1010)
    for seq in (2, 3, 6):
        assert receiver.take(seq, born=10, settled=900, first=1) == []
    assert receiver.take(37, born=10, settled=1005, first=37) == []
    assert receiver.take(40, born=10, settled=1005) == [gap(38, 39)]
    assert receiver.take(42, born=10, settled=2000) == [gap(41, 41)]


def test_a_stream_that_is_younger_than_the_join_is_due_from_1_whenever_its_publisher_settled() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1010)
    assert receiver.take(3, born=1011, settled=1005) == [gap(1, 2)]
    assert receiver.take(5, born=1011, settled=1005) == [gap(4, 4)]


def test_a_publisher_that_does_not_tell_when_it_settled_is_believed() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1010)
    assert receiver.take(2, born=10) == []
    assert receiver.take(4, born=10) == [gap(3, 3)]


def test_the_lost_head_of_what_was_meant_is_counted_though_the_stream_is_older() -> None:
    for before in ((), (2, 3)):
        receiver = Receiver()
        receiver.streams.joined(1000, 1010)
        for seq in before:
            assert receiver.take(seq, born=10, settled=900, first=1) == []
        assert receiver.take(37, born=10, settled=1005, first=30) == [gap(30, 36)]
        assert receiver.take(38, born=10, settled=1005, first=30) == []


def test_what_was_forgotten_is_not_counted_from_the_first_since_the_publisher_settled() -> None:
    receiver = Receiver(limit=2)
    receiver.streams.joined(1000, 1010)
    receiver.take(5, born=10, settled=1005, first=5)
    for number in range(10):
        receiver.take(1, born=10, settled=1005, first=1, system=f"s{number}")
    assert receiver.take(50, born=10, settled=1005, first=5) == []


@pytest.mark.parametrize("first", [-1, 0, 8])
def test_a_first_that_cannot_be_is_ignored(first: int) -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1010)
    assert receiver.take(7, born=10, settled=1005, first=first) == []
    assert receiver.take(9, born=10, settled=1005, first=first) == [gap(8, 8)]


def test_what_its_publisher_had_settled_by_the_time_asked_was_not_meant() -> None:
    receiver = Receiver()
    receiver.streams.joined(1000, 1005)
    assert receiver.take(3, born=5, settled=1000, first=1) == []
    assert receiver.take(9, born=5, settled=1000, first=1) == []
    assert receiver.take(13, born=5, settled=1001, first=11) == [gap(11, 12)]


def test_a_stream_born_amid_the_join_is_not_due_from_1() -> None:
    """Its publisher may have looked at the roster just before the token moved."""
    receiver = Receiver()
    receiver.streams.joined(1000, 2000)
    assert receiver.take(3, born=1500) == []
    assert receiver.take(3, born=2001, system="t") == [gap(1, 2, system="t")]


def test_before_the_join_is_complete_nothing_is_lost() -> None:
    receiver = Receiver()
    assert receiver.take(3, born=5, settled=2**62, first=1) == []
    assert receiver.take(9, born=5, settled=2**62, first=1) == []


def test_a_channel_that_has_forgotten_nothing_yet_counts_the_head_of_a_stream() -> None:
    receiver = Receiver(limit=2)
    receiver.streams.joined(1000, 1000)
    for name in "ab":
        receiver.take(1, born=5, settled=2000, first=1, system=name)
    for name in "cd":
        assert receiver.take(5, born=5, settled=2000, first=2, system=name) == [gap(2, 4, system=name)]


def test_the_youngest_stream_of_all_is_remembered_and_not_the_latest() -> None:
    """What is forgotten must not be due from 1 when it comes back, in whatever order it was born."""
    receiver = Receiver(limit=1)
    receiver.streams.joined(1000, 1000)
    for name, born in (("a", 5000), ("b", 3000), ("c", 2000), ("d", 2000)):
        receiver.take(1, born=born, system=name)
    assert receiver.take(9, born=5000, system="a") == []
