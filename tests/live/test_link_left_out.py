"""What one side of a link will never take is left out, and told on the other side, whatever follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zbus.aio
from zbus.links.headers import encode
from zbus.protocol.relayed import Relayed

from .nats import Server, add_stream, client_of, needs_nats
from .test_link import linked, running, until, until_it_listens
from .test_link_faults import Ledger

pytestmark = needs_nats


@pytest.mark.parametrize("discard", ["old", "new"])
async def test_what_a_stream_will_never_take_is_left_out_and_told(
    server: Server, machines: Path, discard: str
) -> None:
    await add_stream(server, max_msg_size=2000, discard=discard)
    ledger = Ledger()
    async with linked(server, machines) as (out, sender, sub):
        for number in range(1, 6):
            await sender.send("orders", "x", "/x", "x" * 3000 if number in (3, 5) else number)
        await ledger.read(sub.channel(), 5)
        ledger.balances(sub.channel(), 5)
        assert [gap[3:] for gap in sub.channel().gaps] == [(3, 3), (5, 5)]
        await until(lambda: (out.numbers.sent, out.numbers.refused, out.numbers.problem) == (3, 2, ""))


@pytest.mark.parametrize("overflow", ["drop", "block"])
async def test_what_this_bus_will_never_take_is_left_out_and_told(
    server: Server, machines: Path, overflow: Any
) -> None:
    await add_stream(server)
    right, ledger = machines / "right", Ledger()
    async with (
        running(server, right, into=["orders"]) as into,
        zbus.aio.Bus(dir=right) as receiver,
        client_of(server) as client,
    ):
        await until_it_listens(server)
        into._bus.relay._max = 2000
        sub = await receiver.subscribe("orders", overflow=overflow)
        for number in range(1, 6):
            body = b'"%b"' % (3000 * b"x" if number in (1, 3, 5) else b"")
            item = Relayed("5f0c9a1b2c3d4e5f", "orders", "x", number, "a" * 16, b"/x", b"", body)
            await client.publish("zbus.other.orders.x", body, headers=encode(item)[0])
        await ledger.read(sub.channel(), 5)
        ledger.balances(sub.channel(), 5)
        assert [gap[3:] for gap in sub.channel().gaps] == [(1, 1), (3, 3), (5, 5)]
        assert (into.numbers.received, into.numbers.refused) == (2, 3)
