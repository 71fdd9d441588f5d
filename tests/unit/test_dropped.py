"""What a link has dropped of a stream is told as one range."""

from __future__ import annotations

import pytest

from zbus.links import dropped
from zbus.links.dropped import Dropped
from zbus.protocol.relayed import Relayed

KEY = ("5f0c9a1b", "orders", "created")
VIA = "a" * 16


def event(seq: int) -> Relayed:
    return Relayed(*KEY, seq, VIA, b"/x", b"", b"{}")


def told(seq: int, first: int = 0) -> Relayed:
    return Relayed(*KEY, seq, VIA, first=first)


@pytest.mark.parametrize(
    ("items", "lost"),
    [
        ([event(5)], told(6, first=5)),
        ([event(5), event(6), event(9)], told(10, first=5)),
        ([told(7, first=3), event(7)], told(8, first=3)),
        ([told(7)], told(7)),
        ([told(7), event(9)], told(10, first=7)),
        ([event(5), told(6)], told(6, first=5)),
        ([event(5), told(8, first=6)], told(8, first=5)),
    ],
)
def test_all_that_was_dropped_is_one_range(items: list[Relayed], lost: Relayed) -> None:
    noted = Dropped()
    for item in items:
        noted.note(item)
    assert len(noted) == 1
    assert noted.take(KEY) == lost
    assert noted.take(KEY) is None
    assert not noted


def test_of_too_many_streams_those_that_were_dropped_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "_STREAMS_KEPT", 2)
    noted = Dropped()
    for kind in ("a", "b", "a", "c"):
        noted.note(event(len(noted) + 1)._replace(kind=kind))
    assert [noted.take_any().kind for _ in range(2)] == ["a", "c"]
    assert not noted
