"""A link that brings more in than its bus takes: memory is bounded, and nothing is lost that is not told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import zbus
import zbus.aio
from zbus.links.headers import encode
from zbus.links.nats import Link
from zbus.protocol.relayed import Relayed

from .nats import Server, add_stream, api, client_of, nats_server, needs_nats
from .test_link import LONG, consumers, receive, running, until, until_it_listens

pytestmark = needs_nats


@contextlib.asynccontextmanager
async def full(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[tuple[Link, zbus.aio.Subscription]]:
    """Yield a link, and the subscription that it fills, since nobody receives yet."""
    monkeypatch.setattr("zbus.links.inbound._SEND_SECONDS", 0.2)
    async with running(server, root, into=["orders"], **options) as link, zbus.aio.Bus(dir=root) as receiver:
        yield link, await receiver.subscribe("orders", overflow="block", capacity=10)


async def publish(server: Server, count: int, size: int, kind: str = "x") -> None:
    """Publish numbered events, as another link would."""
    body = b'"%b"' % (size * b"x")
    async with client_of(server) as client:
        for number in range(1, count + 1):
            item = Relayed("5f0c9a1b2c3d4e5f", "orders", kind, number, "a" * 16, b"/x", b"", body)
            await client.publish(f"zbus.other.orders.{kind}", body, headers=encode(item)[0])
        await client.flush()


async def test_with_jetstream_the_server_holds_the_rest_back(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without flow control it sends 1,024 messages of any size, and closes the connection at 64 MB."""
    await add_stream(server, storage="memory")
    async with full(server, machines, monkeypatch) as (link, sub):
        await until_it_listens(server)
        await publish(server, 1800, 60_000)
        await until(lambda: "this bus takes nothing" in link.numbers.problem)
        (name,) = await consumers(server)
        delivered = (await api(server, f"CONSUMER.INFO.zbus.{name}"))["delivered"]["stream_seq"]
        assert delivered - link.numbers.received < 700  # the window has 32 MB
        assert [evt.seq for evt in await receive(sub.channel(), 1800)] == [*range(1, 1801)]
        await until(lambda: link.numbers.problem == "")
        assert (sub.lost, link.numbers.dropped) == (0, 0)


async def test_without_jetstream_the_oldest_are_dropped_and_told(
    machines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of a topic of which nothing has been sent on, so that no number of it is known here."""
    monkeypatch.setattr("zbus.links.inbound._CORE_BYTES", 300_000)
    with nats_server(machines, jetstream=False) as server:
        async with full(server, machines, monkeypatch, core=True) as (link, sub):
            await publish(server, 5000, 1000, kind="first")
            await until(lambda: "this bus takes nothing" in link.numbers.problem)
            await publish(server, 3000, 1000)
            await until(lambda: link.numbers.dropped > 3000)
            got: list[zbus.Event] = []

            async with asyncio.timeout(LONG):
                while len(got) + sub.lost < 8000:
                    with contextlib.suppress(zbus.Timeout):
                        got.append((await sub.channel().receive(0.1)).event)
            gaps = [(gap.kind, seq) for gap in sub.channel().gaps for seq in range(gap.first, gap.last + 1)]
            every = [
                (kind, seq) for kind, count in (("first", 5000), ("x", 3000)) for seq in range(1, count + 1)
            ]
            assert sorted([*gaps, *((evt.kind, evt.seq) for evt in got)]) == every
            assert next(gap.first for gap in sub.channel().gaps if gap.kind == "x") == 1
            assert sub.lost == link.numbers.dropped
            assert capsys.readouterr().out.count("dropping the oldest") == 1
            assert (link.numbers.received, link.numbers.problem) == (len(got), "")
