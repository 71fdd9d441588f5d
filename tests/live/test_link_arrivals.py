"""Links that bring in, while they are killed or their bus takes nothing: what is acknowledged is not lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import zbus.aio

from .nats import Server, add_stream, api, needs_nats
from .process import Worker
from .test_link import LONG, receive, running, shown, until, until_it_listens
from .test_link_faults import said

pytestmark = needs_nats


async def test_what_came_in_is_acknowledged_when_a_block_subscriber_has_it(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `send` has taken is still in the memory of the link, and would be lost with it."""
    monkeypatch.setattr("zbus.links.inbound._SEND_SECONDS", 0.2)
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    data, count = "x" * 10_000, 200

    async def acknowledged(name: str) -> int:
        about = await api(server, f"CONSUMER.INFO.zbus.{name}")
        return int(about["ack_floor"]["stream_seq"])

    async with (
        running(server, left, out=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        sub = await receiver.subscribe("orders", overflow="block", capacity=10)
        async with running(server, right, into=["orders"], name="x") as into:
            await until_it_listens(server)
            for _ in range(count):
                await sender.send("orders", "x", "/x", data)
            await until(lambda: into.numbers.problem)
            assert await acknowledged("zbus-x-1") < count
            await receive(sub.channel(), count)
            async with asyncio.timeout(LONG):
                while await acknowledged("zbus-x-1") < count:
                    await asyncio.sleep(0.01)
            assert not into.numbers.problem


@pytest.mark.parametrize("reconnects", [False, True])
async def test_what_a_killed_link_had_sent_on_and_not_written_comes_again(
    server: Server, machines: Path, reconnects: bool
) -> None:
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    data, count = "x" * 10_000, 200
    async with (
        running(server, left, out=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        sub = await receiver.subscribe("orders", overflow="block", capacity=10)
        link = Worker("into", server.url, right, module="tests.live.link_workers")
        try:
            await said(link, "connected")
            await until_it_listens(server)
            for _ in range(count):
                await sender.send("orders", "x", "/x", data)
            # A problem: it waits for the subscriber before it acknowledges what came so far.
            await until(lambda: (seen := shown(right)) is not None and (seen.received > 100 or seen.problem))
            if reconnects:
                server.kill()
                await said(link, "down")
                server.start()
                await said(link, "connected")
                await until_it_listens(server, name="zbus-killed-2")
        finally:
            await asyncio.to_thread(link.kill)
        async with running(server, right, into=["orders"], name="killed"):
            got = await receive(sub.channel(), count)
        assert [evt.seq for evt in got] == [*range(1, count + 1)]
        assert sub.lost == 0
