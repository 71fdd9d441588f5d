"""What a link carries out of what is on its bus."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zbus.links.numbers import LinkNumbers
from zbus.links.outbound import Outbound
from zbus.protocol.relayed import Relayed

HERE, THERE = "a" * 16, "b" * 16


def event(seq: int, via: str = THERE) -> Relayed:
    return Relayed("5f0c9a1b", "orders", "x", seq, via, b"/x", b"", b"{}")


def lost(first: int, last: int, via: str = THERE) -> Relayed:
    return Relayed("5f0c9a1b", "orders", "x", last + 1, via, first=first)


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        (event(3, via=""), True),
        (event(3, via=f"{HERE}-{THERE}"), False),
        (event(3), False),
        (event(4), True),
        (lost(2, 3), False),
        (lost(2, 4), True),
        (event(4)._replace(system="secret"), False),
    ],
)
def test_what_the_link_itself_has_brought_stays_here(item: Relayed, wanted: bool) -> None:
    """It has brought the numbers up to 3, or the news that they are lost."""
    bus: Any = SimpleNamespace(relay=SimpleNamespace(knows=lambda _, seq: seq <= 3))
    outbox: Any = None
    outbound = Outbound(
        bus,
        HERE,
        outbox,
        LinkNumbers(),
        lambda system: system != "secret",
        print,
        core=False,
        subjects="zbus.>",
    )
    assert outbound._wanted(item) is wanted
