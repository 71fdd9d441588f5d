"""Runs the stamps of `vectors/stamps.json` through the package, and through the plain peer."""

from __future__ import annotations

import pytest

from zbus.protocol import wire

from . import plain_peer
from .sequences import Case, read

STAMPS = read("stamps.json")
FIELDS = ("origin", "seq", "born", "settled", "first", "time")


def bytes_of(case: Case) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else str(case["stamp"]).encode()


def told(case: Case) -> Case:
    return {field: case[field] for field in FIELDS if field in case}


@pytest.mark.parametrize("case", STAMPS["accept"], ids=lambda case: str(case["id"]))
def test_a_stamp_tells_what_the_vectors_say(case: Case) -> None:
    (event,) = wire.decode(b"s\0k\0/p\0" + bytes_of(case) + b"\0").events
    assert (event.origin, event.seq) == (case.get("origin", ""), case.get("seq", 0))
    found = wire.parse_stamp(bytes_of(case))
    assert found[:5] == (event.origin, event.seq, *(case.get(field, -1) for field in FIELDS[2:5]))
    assert event.time == (case["time"] / 1e6 if "time" in case else None)


@pytest.mark.parametrize("case", STAMPS["reject"], ids=lambda case: str(case["id"]))
def test_these_make_their_frame_malformed(case: Case) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(b"s\0k\0/p\0" + bytes_of(case) + b"\0")


def test_so_does_a_peer_that_was_written_from_the_specification() -> None:
    for case in STAMPS["accept"]:
        assert plain_peer.parse_stamp(bytes_of(case)) == told(case), case["id"]
    for case in STAMPS["reject"]:
        with pytest.raises(plain_peer.Malformed):
            plain_peer.parse_stamp(bytes_of(case))
