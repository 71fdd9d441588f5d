"""Links between two buses by a real NATS server: what one side sends, the other has, or is told of."""

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

pytestmark = needs_nats
LONG = 25.0


@contextlib.asynccontextmanager
async def running(server: Server, root: Path, **options: Any) -> AsyncIterator[Link]:
    """Run a link until the end of the block, connected when it begins."""
    async with Link(server.url, dir=root, notice=print, **options) as link:
        task = asyncio.create_task(link.run())
        try:
            await until(lambda: bool(link.numbers.server) or task.done())
            if task.done():
                task.result()
            yield link
        finally:
            link.stop()
            await asyncio.wait_for(task, LONG)


@contextlib.asynccontextmanager
async def linked(
    server: Server, machines: Path, **options: Any
) -> AsyncIterator[tuple[Link, zbus.aio.Bus, zbus.aio.Subscription]]:
    """Carry `orders` from one bus to another; yield the link out, a sender there, and the other's reader."""
    left, right = machines / "left", machines / "right"
    async with (
        running(server, left, out=["orders"], **options) as out,
        running(server, right, into=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        await until_it_listens(server)
        yield out, sender, await receiver.subscribe("orders")


async def until(condition: Any) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.01)


async def consumers(server: Server) -> list[str]:
    return (await api(server, "CONSUMER.NAMES.zbus")).get("consumers") or []


async def until_it_listens(server: Server, count: int = 1, name: str = "") -> None:
    async with asyncio.timeout(LONG):
        while len(found := await consumers(server)) != count or (name and found != [name]):
            await asyncio.sleep(0.05)


def shown(root: Path) -> Any:
    """Return what the link on a bus shows on the roster."""
    every = [peer.numbers.link for peer in zbus.peers(dir=root) if peer.numbers is not None]
    return next(filter(None, every), None)


async def receive(channel: zbus.aio.Channel, count: int) -> list[zbus.Event]:
    return [(await channel.receive(LONG)).event for _ in range(count)]


async def test_events_arrive_as_they_were_sent(server: Server, machines: Path) -> None:
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    async with (
        running(server, left, out=["orders.**"]) as out,
        running(server, right, into=["orders.**"]) as into,
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("**")
        data = [{"total": 9.5}, None, b"\0\1", "größe", [1, 2.5, None], b"", 0, 2**60]
        for number, value in enumerate(data):
            await sender.send("orders.eu", "order.created", f"/größe/{number}", value)
        await sender.send("elsewhere", "x", "/x")
        await sender.send_many("orders", "many", [("/a", 1), ("/b", None)])
        got = await receive(sub.channel(), len(data) + 2)
        assert [evt.data for evt in got] == [*data, 1, None]
        assert [evt.path for evt in got[:-2]] == [f"/größe/{number}" for number in range(len(data))]
        assert [evt.seq for evt in got] == [*range(1, len(data) + 1), 1, 2]
        assert len({evt.origin for evt in got}) == 1
        assert all(evt.time is not None for evt in got)
        assert sub.lost == 0
        await until(lambda: out.numbers.sent == len(got))
        await until(lambda: (seen := shown(left)) is not None and seen.sent == len(got))
        assert into.numbers.received == len(got)


async def test_another_client_reads_the_json_and_selects_by_kind(server: Server, machines: Path) -> None:
    await add_stream(server)
    async with (
        running(server, machines / "left", out=["orders.**"], bus="shop"),
        zbus.aio.Bus("shop", dir=machines / "left") as sender,
        client_of(server) as client,
    ):
        found = await client.subscribe("zbus.shop.orders.*")
        await client.flush()
        await sender.send("orders.eu", "order.created", "/orders/0", {})
        await sender.send("orders", "order.created", "/orders/1", {"total": 9.5})
        message = await found.next_msg(LONG)
        assert message.data == b'{"total":9.5}'
        assert message.subject == "zbus.shop.orders.order%2Ecreated"
        assert message.headers is not None
        assert message.headers["ce-type"] == "order.created"
        assert message.headers["ce-subject"] == "/orders/1"


async def test_a_link_that_starts_again_continues_where_the_one_before_was(
    server: Server, machines: Path
) -> None:
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    async with (
        running(server, left, out=["orders"]) as out,
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        sub = await receiver.subscribe("orders")
        for first in (1, 101, 201):
            async with running(server, right, into=["orders"]):
                await until_it_listens(server)
                for number in range(first, first + 50):
                    await sender.send("orders", "x", "/x", number)
                got = await receive(sub.channel(), 50 if first == 1 else 100)
                assert [evt.data for evt in got][-50:] == [*range(first, first + 50)]
            (consumer,) = await consumers(server)
            about = await api(server, f"CONSUMER.INFO.zbus.{consumer}")
            assert about["ack_floor"]["stream_seq"] == first + 49
            for number in range(first + 50, first + 100):
                await sender.send("orders", "x", "/x", number)
            await until(lambda first=first: out.numbers.sent == first + 99)
        assert sub.lost == 0


async def test_a_second_link_of_the_same_name_ends_the_first(server: Server, machines: Path) -> None:
    await add_stream(server)
    async with Link(server.url, dir=machines / "right", into=["orders"], name="one") as first:
        task = asyncio.create_task(first.run())
        await until_it_listens(server)
        async with running(server, machines / "right", into=["orders"], name="one"):
            with pytest.raises(zbus.Canceled, match="another link named 'one' has taken over"):
                await asyncio.wait_for(task, LONG)
            assert await consumers(server) == ["zbus-one-2"]


async def test_what_one_side_has_lost_is_lost_on_the_other(server: Server, machines: Path) -> None:
    await add_stream(server)
    async with linked(server, machines) as (out, sender, sub):
        big = "x" * (2 * 1024 * 1024)  # more than NATS takes
        for data in (1, 2, big, big, 5, big):
            await sender.send("orders", "x", "/x", data)
        assert [evt.data for evt in await receive(sub.channel(), 3)] == [1, 2, 5]
        assert [gap[3:] for gap in sub.channel().gaps] == [(3, 4)]
        await until(lambda: out.numbers.refused == 3)
        await sender.send("orders", "x", "/x", 7)
        assert (await receive(sub.channel(), 1))[0].data == 7
        assert sub.lost == 3


async def test_the_policy_holds_in_both_directions(server: Server, machines: Path) -> None:
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    deny = zbus.Policy([("allow", "*", "orders.eu"), ("allow", "*", "orders.us")], default="deny")
    other = zbus.Policy([("deny", "events.send", "orders.us")])
    async with (
        running(server, left, out=["**"], policy=deny) as out,
        running(server, right, into=["**"], policy=other) as into,
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("**")
        for system in ("secret", "orders.us", "orders.us", "orders.eu"):
            await sender.send(system, "x", "/x")
        assert [evt.system for evt in await receive(sub.channel(), 1)] == ["orders.eu"]
        assert out.numbers.refused == 1
        assert into.numbers.refused == 2


@pytest.mark.parametrize("core", [False, True])
async def test_no_event_comes_back_to_a_bus_where_it_has_been(
    machines: Path, server: Server, core: bool
) -> None:
    """Three buses, each with a link in both directions, and one of them with two."""
    await add_stream(server)
    roots = [machines / name for name in "abc"]
    async with contextlib.AsyncExitStack() as stack:
        links = [
            await stack.enter_async_context(
                running(server, machines / name[0], out=["**"], into=["**"], name=name, core=core)
            )
            for name in ("a1", "a2", "b", "c")
        ]
        if not core:
            await until_it_listens(server, 4)
        buses = [await stack.enter_async_context(zbus.aio.Bus(dir=root)) for root in roots]
        subs = [await bus.subscribe("**") for bus in buses]
        for count in range(20):
            for number, bus in enumerate(buses):
                await bus.send("s", f"k{number}", "/x", count)
        for number, sub in enumerate(subs):
            if number:
                got = await receive(sub.channel(), 60)
                assert sorted((evt.kind, evt.data) for evt in got) == sorted(
                    (f"k{n}", count) for n in range(3) for count in range(20)
                )
        for bus in buses:  # whatever went in circles would be here before this
            await bus.send("s", "end", "/x")
        for number, sub in enumerate(subs[1:], 1):
            got = await receive(sub.channel(), 3)
            assert [evt.kind for evt in got] == ["end"] * 3, number
            assert sub.lost == 0
            # Subscribers leave out what comes twice, so ask the link: two times 20 events, and two ends.
            assert links[number + 1].numbers.received == 42


async def test_without_jetstream_the_end_of_a_topic_is_told(machines: Path) -> None:
    with nats_server(machines, jetstream=False) as server:
        async with (
            running(server, machines / "left", out=["orders"], core=True) as out,
            zbus.aio.Bus(dir=machines / "left") as sender,
            client_of(server) as client,
        ):
            found = await client.subscribe("zbus.default.orders.x")
            await client.flush()
            for number in range(3):
                await sender.send("orders", "x", "/x", number)
            messages = [await found.next_msg(LONG) for _ in range(4)]
            assert [message.data for message in messages] == [b"0", b"1", b"2", b""]
            last = messages[-1].headers
            assert last is not None
            assert last["zbus-next"] == "4"
            await until(lambda: out.numbers.sent == 3)


@pytest.mark.parametrize("overflow", ["drop", "block"])
@pytest.mark.parametrize("known", [True, False])
async def test_what_is_told_of_the_end_of_a_topic_is_told_here(
    machines: Path, known: bool, overflow: Any
) -> None:
    """Also of a topic that an earlier link has brought in."""
    right = machines / "right"
    event = Relayed("5f0c9a1b2c3d4e5f", "orders", "x", 1, "a" * 16, b"/x", b"", b"1")
    with nats_server(machines, jetstream=False) as server:
        async with zbus.aio.Bus(dir=right) as receiver, client_of(server) as client:
            sub = await receiver.subscribe("orders", overflow=overflow)

            async def publish(item: Relayed) -> None:
                headers, body = encode(item)
                await client.publish("zbus.other.orders.x", body, headers=headers)

            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(running(server, right, into=["orders"], core=True))
                while not len(await receive_some(sub.channel())):
                    await publish(event)
                if not known:
                    await stack.aclose()
                    await stack.enter_async_context(running(server, right, into=["orders"], core=True))
                while not sub.lost:
                    await publish(event._replace(seq=4, path=b"", body=b""))
                    await receive_some(sub.channel(), 2.0)  # marks come when the link is at rest
                assert [gap[3:] for gap in sub.channel().gaps] == [(2, 3)]


async def receive_some(channel: zbus.aio.Channel, timeout: float = 0.05) -> list[zbus.Event]:
    try:
        return [(await channel.receive(timeout)).event]
    except zbus.Timeout:
        return []


async def test_what_no_link_has_sent_is_refused(server: Server, machines: Path) -> None:
    await add_stream(server)
    right = machines / "right"
    event = Relayed("5f0c9a1b2c3d4e5f", "orders", "x", 1, "a" * 16, b"/x", b"", b"1")
    async with (
        running(server, right, into=["**"]) as into,
        zbus.aio.Bus(dir=right) as receiver,
        client_of(server) as client,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("**")
        headers, _ = encode(event)
        del headers["Nats-Msg-Id"]  # by which the stream would take them for copies
        await client.publish("zbus.other.orders.x", b"1")
        await client.publish("zbus.other.orders.x", b"{", headers=headers)
        await client.publish("zbus.other.zbus.x", b"1", headers=headers)
        await client.publish("zbus.other.orders.x", b"1", headers=headers)
        await client.publish("zbus.other.orders.x", b"1", headers=headers | {"zbus-seq": str(2**50)})
        await client.publish("zbus.other.orders.x", b"2", headers=headers | {"zbus-seq": "2"})
        assert [evt.data for evt in await receive(sub.channel(), 2)] == [1, 2]
        assert into.numbers.refused == 4
        assert sub.lost == 0
