"""What a decoder keeps, tells and bounds, beside the events themselves."""

from __future__ import annotations

from typing import Any

from zbus.event import Gap, Mismatch
from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher

ORIGIN = "0123456789abcdef"
Told = list[tuple[str, int]]


def frame(seq: int, data: bytes = b"1", *, born: int = 5, since: str = "", path: str = "/1") -> bytes:
    return f"s\0k\0{path}\0{ORIGIN}.{seq}.{born}{since}\0".encode() + data


def made(fit: Any = None) -> tuple[Decoder, Told]:
    """Return a decoder that joined at 1,000, and what it has counted."""
    told: Told = []
    decoder = Decoder(Matcher("*"), None, fit, lambda name, number: told.append((name, number)))
    decoder.joined(1_000, 1_000)
    return decoder, told


def refuse(data: Any) -> Any:
    raise ValueError(f"{data} is not what was asked for")


def test_a_gap_is_kept_told_and_counted_in_events() -> None:
    decoder, told = made()
    decoder.decode(frame(1))
    decoder.decode(frame(5))
    gap = Gap(ORIGIN, "s", "k", 2, 4)
    assert list(decoder.gaps) == list(decoder.pending_reports) == [gap]
    assert (decoder.lost, told) == (3, [("lost", 3)])


def test_what_does_not_fit_is_kept_told_and_counted() -> None:
    decoder, told = made(refuse)
    decoder.decode(frame(1, b"7"))
    assert decoder.decode(frame(2, b"7")) is None
    [first, second] = decoder.mismatches
    assert list(decoder.pending_reports) == [first, second]
    assert isinstance(second, Mismatch)
    assert (second.event.seq, second.event.data, second.reason) == (2, 7, "7 is not what was asked for")
    assert (decoder.mismatched, told) == (2, [("mismatched", 1)] * 2)


def test_a_malformed_frame_is_counted_with_its_reason() -> None:
    decoder, told = made()
    decoder.decode(b"s\0k\0/1\0wrong\0")
    assert (decoder.malformed, told) == (1, [("malformed", 1)])
    assert "origin" in decoder.malformed_reason


def test_a_thousand_gaps_are_kept_and_told_and_all_are_counted() -> None:
    """Nobody may ask for either: then they must not grow."""
    decoder, _ = made()
    for number in range(1, 1_202):
        decoder.decode(frame(2 * number))
    assert decoder.lost == 1_200
    assert len(decoder.gaps) == len(decoder.pending_reports) == 1_000
    assert decoder.gaps[-1] == decoder.pending_reports[-1] == Gap(ORIGIN, "s", "k", 2_401, 2_401)


def test_a_hundred_mismatches_are_kept_and_all_are_counted() -> None:
    decoder, _ = made(refuse)
    for number in range(1, 151):
        decoder.decode(frame(number))
    assert decoder.mismatched == 150
    assert [mismatch.event.seq for mismatch in decoder.mismatches] == list(range(51, 151))


def test_frames_that_were_not_meant_for_the_channel_may_have_holes() -> None:
    """The publisher had settled before the join: they were on their way to another channel."""
    decoder, _ = made()
    for seq in (3, 7):
        decoder.decode(frame(seq, since=".900.1"))
    assert decoder.lost == 0
    decoder.decode(frame(12, since=".1500.10"))
    assert list(decoder.gaps) == [Gap(ORIGIN, "s", "k", 10, 11)]


def test_a_batch_is_counted_whether_its_stream_is_new_or_not() -> None:
    decoder, _ = made()
    batch = b'[["/1",1],["/2",2],["/3",3]]'
    for seq in (1, 4, 7):
        assert decoder.decode(frame(seq, batch, path="")) is None
        found = [decoder.rest() for _ in range(4)]
        assert [event and event.seq for event in found] == [seq, seq + 1, seq + 2, None]
    assert decoder.decode(frame(10)) is not None
    assert decoder.lost == 0


RELAYED = "..2000.1.123.aaaaaaaaaaaaaaaa"


def relayed(seq: int, data: bytes = b"1", path: str = "/1") -> bytes:
    return f"s\0k\0{path}\0{ORIGIN}.{seq}{RELAYED}\0".encode() + data


def numbers(decoder: Decoder, *frames: bytes) -> list[int]:
    """Return the numbers of the events in frames."""
    found = []
    for one in frames:
        evt = decoder.decode(one) or decoder.rest()
        while evt is not None:
            found.append(evt.seq)
            evt = decoder.rest()
    return found


def test_what_a_link_sends_again_is_left_out() -> None:
    decoder, told = made()
    assert numbers(decoder, *map(relayed, (1, 2, 3, 5, 3, 4, 5, 6))) == [1, 2, 3, 5, 6]
    assert (decoder.received(), decoder.lost, told) == (5, 1, [("lost", 1)])


def test_a_batch_that_a_link_sends_again_is_left_out_if_all_of_it_came_before() -> None:
    decoder, _ = made()
    batches = [relayed(seq, b'[["/1",1],["/2",2]]', "") for seq in (1, 3, 2, 3, 4)]
    assert numbers(decoder, *batches) == [1, 2, 3, 4, 4, 5]


def test_a_publisher_here_may_begin_again_under_the_same_origin() -> None:
    decoder, _ = made()
    assert numbers(decoder, *(frame(seq, since=".2000.1.123") for seq in (1, 2, 3, 2, 3))) == [1, 2, 3, 2, 3]


def test_a_frame_is_skipped_without_a_look_at_its_data() -> None:
    decoder, _ = made()
    assert decoder.skip(frame(1)) is None  # of a new stream
    assert (decoder.decode(frame(1)) or decoder.rest()) is not None
    skipped = decoder.skip(frame(2, b"{not JSON"))
    assert skipped is not None
    assert (skipped[0].system, skipped[0].kind, skipped[1]) == ("s", "k", f"{ORIGIN}.2.5".encode())
    assert (decoder.received(), decoder.malformed) == (2, 0)


def test_what_is_not_one_event_with_the_number_due_is_not_skipped() -> None:
    decoder, _ = made()
    decoder.decode(frame(1))
    for odd in (
        frame(1),
        frame(3),
        frame(2, b'[["/1",1]]', path=""),
        frame(2).replace(b".2.", b".02."),
        frame(2).replace(b"s\0", b"t\0"),
        b"\xff!x",
        b"s\0k",
    ):
        assert decoder.skip(odd) is None
    assert decoder.received() == 1
    assert decoder.skip(frame(2)) is not None


def test_no_frame_is_skipped_that_the_channel_does_not_want() -> None:
    decoder = Decoder(Matcher("other"), None)
    decoder.decode(frame(1))
    assert decoder.skip(frame(2)) is None


def test_no_frame_is_skipped_of_a_stream_that_is_not_counted() -> None:
    """Whatever number is forged."""
    decoder, _ = made()
    decoder.decode(frame(7, since=".900.1"))  # for another channel of the process
    assert decoder.skip(frame(-1)) is None
    assert decoder.skip(frame(8)) is None


def test_decoding_goes_on_after_skipping() -> None:
    decoder, _ = made()
    decoder.decode(frame(1))
    for seq in range(2, 200):
        assert decoder.skip(frame(seq)) is not None
    assert [evt.seq for seq in (200, 201) if (evt := decoder.decode(frame(seq)) or decoder.rest())] == [
        200,
        201,
    ]
    decoder.decode(frame(205))
    assert (decoder.lost, decoder.received()) == (3, 202)
