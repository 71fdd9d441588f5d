"""A channel that closes while its bus looks whether others still find it."""

from __future__ import annotations

import os

import pytest

import zbus
from zbus.errors import Unavailable


@pytest.mark.parametrize("fails", [False, True])
def test_a_channel_that_closes_meanwhile_is_not_shown_again(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    sub = bus.subscribe("b", overflow="block")
    node = bus._node
    (ingress,) = node._channels.ingresses()
    show = node._roster.restore
    (node.path / ingress.entry.name).unlink()

    def closed_meanwhile(*args: object) -> None:
        ingress.withdraw()
        if fails:
            raise Unavailable("the file to rename is gone")
        show(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node._roster, "restore", closed_meanwhile)
    assert ingress.restore({}, 1.0)
    assert not [name for name in os.listdir(node.path) if name.startswith(ingress.id)]
    sub.close()
