"""What is read undecoded is what a channel would decode: the same events, and the same gaps before them."""

from __future__ import annotations

from random import Random

import pytest

from zbus.event import Event, Gap
from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher
from zbus.protocol.undecoded import Item
from zbus.protocol.wire import Stamp, decode_data, encode_batch, encode_data, frame_template

from .frames import noise

DATA = ({"a": [1, None]}, "text", 7, None, b"\0bytes", b"")


def frames(random: Random, count: int) -> list[bytes]:
    """Return frames of a few streams, with holes, batches, marks, and what is no frame between them."""
    found = []
    numbers: dict[tuple[str, str, str], int] = {}
    for _ in range(count):
        key = (
            random.choice(("a.b", "a.c", "x")),
            random.choice(("k", "l")),
            random.choice(("0" * 8, "f" * 16)),
        )
        seq = numbers.get(key, 1) + random.choice((0,) * 20 + (1, 5))
        template = frame_template(key[0], key[1], Stamp(key[2], 0, 5, 7, 1))
        if random.random() < 0.1:
            rows = [(f"/{number}", number) for number in range(random.randrange(3))]
            data = encode_batch(rows)[0] or b"[]"
            found.append(template % (b"", seq, b"123", data))
            numbers[key] = seq + len(rows)
        else:
            found.append(template % (b"/p", seq, b"123", encode_data(random.choice(DATA))))
            numbers[key] = seq + 1
        if random.random() < 0.05:
            found.append(
                random.choice((b"\xffsentinel", b"a.b\0k\0/p\0\0null", b"a.b\0k\0/p", noise(random)))
            )
    return found


def decoded(item: Item) -> Event | Gap:
    if isinstance(item, (Event, Gap)):
        return item
    stream, seq, path, more, data = item
    assert more == b"5.7.1.123"
    return Event(stream.system, stream.kind, path.decode(), decode_data(data), stream.origin, seq)


def plainly(decoder: Decoder, frame: bytes) -> list[Event | Gap]:
    evt = decoder.decode(frame)
    found: list[Event | Gap] = [one for one in decoder.pending_reports if isinstance(one, Gap)]
    decoder.pending_reports.clear()
    while evt or (evt := decoder.rest()):
        found.append(evt)
        evt = None
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_same_events_and_gaps_in_the_same_order(seed: int) -> None:
    random = Random(seed)
    one, other = (Decoder(Matcher("a.*", "system pattern"), None) for _ in range(2))
    for decoder in (one, other):
        decoder.joined(6, 6)
    read = other.undecoded()
    sent = frames(random, 400)
    expected = [item for frame in sent for item in plainly(one, frame)]
    found: list[Event | Gap] = []
    while sent:
        size = random.randrange(1, 50)
        found += map(decoded, read(sent[:size]))
        del sent[:size]
    assert found == expected
    assert any(isinstance(item, Gap) for item in found)
    assert (one.lost, one.malformed, one.received()) == (other.lost, other.malformed, other.received())


def test_what_a_mark_told_meanwhile_comes_first() -> None:
    decoder = Decoder(Matcher("*", "system pattern"), None)
    decoder.joined(6, 6)
    template = frame_template("a", "k", Stamp("0" * 8, 0, 5, 7, 1))
    read = decoder.undecoded()
    assert len(read([template % (b"/p", 1, b"123", b"null")])) == 1
    decoder.decode(template % (b"", 4, b"123", b"[]"))
    decoder.batch = None
    [gap, evt] = map(decoded, read([template % (b"/p", 4, b"123", b"null")]))
    assert gap == Gap("0" * 8, "a", "k", 2, 3)
    assert isinstance(evt, Event)
    decoder.decode(template % (b"", 6, b"123", b"[]"))
    assert read([]) == [Gap("0" * 8, "a", "k", 5, 5)]


def test_a_number_below_one_is_malformed() -> None:
    decoder = Decoder(Matcher("*", "system pattern"), None)
    frame = b"a\0k\0/p\x0000000000.%d.5.7.1\0null"
    read = decoder.undecoded()
    assert [*read([frame % -1])] == []
    assert decoder.malformed == 1
