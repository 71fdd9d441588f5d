"""How many events a channel has received, told by the numbers of its streams alone."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher

from .test_decoder import ORIGIN, frame, refuse

JOINED = 1_000


def made(limit: int = 65_536) -> Decoder:
    decoder = Decoder(Matcher("(s|t)"), None)
    decoder._streams._limit = limit  # it is not for users
    decoder.joined(JOINED, JOINED)
    return decoder


def take(decoder: Decoder, raw: bytes) -> int:
    """Decode a frame as a channel does; return how many events came out of it."""
    events = int(decoder.decode(raw) is not None)
    while decoder.rest() is not None:
        events += 1
    return events


def stamped(
    system: str, origin: str, seq: int, events: int | None = None, *, born: int = 5, since: str = ""
) -> bytes:
    """Return a frame of one event, or with `events` a batch, or a mark if that is 0."""
    path, data = ("/1", "1") if events is None else ("", json.dumps([["/1", 1]] * events))
    return f"{system}\0k\0{path}\0{origin}.{seq}.{born}{since}\0{data}".encode()


def test_each_event_of_a_selected_stream_is_received() -> None:
    decoder = made()
    assert decoder.received() == 0
    assert [take(decoder, raw) for raw in (frame(7), frame(8), stamped("s", ORIGIN, 9, 5))] == [1, 1, 5]
    assert decoder.received() == 7
    assert take(decoder, stamped("other", ORIGIN, 1, 9)) == 0
    assert decoder.received() == 7


def test_what_is_lost_is_not_received() -> None:
    decoder = made()
    decoder.decode(frame(1))
    decoder.decode(frame(10))
    assert (decoder.received(), decoder.lost) == (2, 8)
    decoder.lose(1)  # as `latest` does with an event that it has no room for
    assert (decoder.received(), decoder.lost) == (1, 9)


def test_a_mark_is_no_event_and_what_it_reveals_is_lost() -> None:
    decoder = made()
    decoder.decode(frame(5, since=".2000.5"))
    take(decoder, stamped("s", ORIGIN, 9, 0, since=".2000.5"))
    assert (decoder.received(), decoder.lost) == (1, 3)
    take(decoder, stamped("s", ORIGIN, 9, 0, since=".2000.2"))
    assert (decoder.received(), decoder.lost) == (1, 6)


def test_frames_without_a_number_count_where_they_are_selected() -> None:
    decoder = made()
    for system in ("s", "other"):
        decoder.decode(f"{system}\0k\0/1\0\0".encode())
        take(decoder, f'{system}\0k\0\0\0[["/1"],["/2"]]'.encode())
    assert decoder.received() == 3


def test_an_event_that_was_not_meant_for_the_channel_yet_is_received() -> None:
    decoder = made()
    assert take(decoder, frame(3, since=".900.1")) == 1
    assert take(decoder, stamped("other", ORIGIN, 3, since=".900.1")) == 0
    assert decoder.received() == 1
    assert take(decoder, frame(9, since=".2000.9")) == 1
    assert (decoder.received(), decoder.lost) == (2, 0)


def test_a_publisher_that_begins_again_loses_no_count() -> None:
    decoder = made()
    for seq in (50, 51, 52, 1, 2, 9):
        decoder.decode(frame(seq))
    assert (decoder.received(), decoder.lost) == (6, 6)


def test_malformed_frames_are_not_received_and_those_of_another_type_are() -> None:
    decoder = Decoder(Matcher("*"), None, refuse)
    decoder.decode(frame(1))
    decoder.decode(frame(2, b"{"))
    decoder.decode(b"nonsense")
    assert (decoder.received(), decoder.mismatched, decoder.malformed) == (1, 1, 2)


def test_streams_that_are_forgotten_still_count() -> None:
    decoder = made(limit=2)
    for number in range(20):
        decoder.decode(stamped("s", f"{number % 9:08x}", 1 + number // 9))
    assert decoder.received() == 20


def test_a_count_amid_a_change_is_refused_and_one_afterwards_is_right() -> None:
    seen: list[int | None] = []
    decoder = Decoder(Matcher("*"), None, count=lambda *_: seen.append(decoder.received()))
    decoder.decode(frame(1))
    decoder.decode(frame(5))  # tells a gap while the stream still expects the number 2
    assert seen == [None]
    assert (decoder.received(), decoder.lost) == (2, 3)


def test_an_interrupted_frame_does_not_end_the_counting() -> None:
    decoder = made()
    decoder.decode(frame(1))
    decoder._streams.changes += 1  # as an interrupt would leave it
    assert decoder.received() is None
    decoder.decode(frame(5))
    assert decoder.received() == 2


@given(st.integers(0, 2**32))
@pytest.mark.parametrize("limit", [2, 65_536])
def test_whatever_comes_is_counted_exactly(limit: int, seed: int) -> None:
    random, decoder, events = Random(seed), made(limit), 0
    for _ in range(random.randrange(60)):
        since = random.choice(["", f".{random.randrange(3000)}.{random.randrange(9)}"])
        raw = stamped(
            random.choice(["s", "t", "other"]),
            f"{random.randrange(6):08x}",
            random.randrange(1, 20),
            random.choice([None, None, 0, 1, 3]),
            born=random.choice([5, 5, 2000]),
            since=since,
        )
        events += take(decoder, random.choice([raw, raw, raw, b"s\0k\0/1\0\0", raw[:-1]]))
        assert decoder.received() == events
