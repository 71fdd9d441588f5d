"""Links while something fails: what arrived and what was told lost is all that was sent, each once."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

import zbus
import zbus.aio
from zbus.links.headers import encode
from zbus.links.nats import Link
from zbus.protocol.relayed import Relayed

from .nats import Server, add_stream, api, client_of, hanging, needs_nats, slowed
from .process import Worker
from .test_link import LONG, linked, receive, running, shown, until, until_it_listens

pytestmark = needs_nats


class Ledger:
    """What a subscriber has got of one topic, and what it was told is lost."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.last = 0

    async def read(self, channel: zbus.aio.Channel, until: int) -> None:
        """Receive until the number `until` is accounted for."""
        while self.last < until:
            try:
                evt, _ = await channel.receive(0.05)
            except zbus.Timeout:
                self.last = max([self.last, *(gap.last for gap in channel.gaps)])
                continue
            self.got.append(evt.seq)
            self.last = max(self.last, evt.seq)

    def balances(self, channel: zbus.aio.Channel, sent: int) -> None:
        """Fail unless each number is here once, in order, or was told lost."""
        lost = [number for gap in channel.gaps for number in range(gap.first, gap.last + 1)]
        assert self.got == sorted(set(self.got)), "out of order, or twice"
        assert sorted([*self.got, *lost]) == [*range(1, sent + 1)]


async def said(link: Worker, what: str) -> None:
    assert (await asyncio.to_thread(link.hear))["is"] == what


async def numbered(sender: zbus.aio.Bus, first: int, count: int) -> None:
    for number in range(first, first + count):
        await sender.send("orders", "x", "/x", number, timeout=LONG)


async def test_a_server_that_is_killed_and_starts_again_loses_nothing(server: Server, machines: Path) -> None:
    await add_stream(server)
    ledger = Ledger()
    async with linked(server, machines) as (out, sender, sub):
        for turn in range(3):
            task = asyncio.create_task(numbered(sender, 1000 * turn + 1, 1000))
            await until(lambda turn=turn: out.numbers.sent > 1000 * turn + 100)
            server.kill()
            await until(lambda: not out.numbers.server)
            server.start()
            await task
        await ledger.read(sub.channel(), 3000)
        ledger.balances(sub.channel(), 3000)
        assert sub.lost == 0
        await until(lambda: out.numbers.reconnects >= 3)
    about = await api(server, "STREAM.INFO.zbus")
    assert about["state"]["messages"] == 3000, "stored twice"


async def test_a_server_that_stands_still_for_long_loses_nothing(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, and what it read by the old connection is not stored twice."""
    monkeypatch.setattr("zbus.links.outbound._ACK_SECONDS", 0.5)
    await add_stream(server)
    ledger = Ledger()
    async with linked(server, machines) as (out, sender, sub):
        task = asyncio.create_task(numbered(sender, 1, 2000))
        await until(lambda: out.numbers.sent > 100)
        server.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: not out.numbers.server)
        finally:
            server.send_signal(signal.SIGCONT)
        await task
        await ledger.read(sub.channel(), 2000)
        ledger.balances(sub.channel(), 2000)
        assert sub.lost == 0
    about = await api(server, "STREAM.INFO.zbus")
    assert about["state"]["messages"] == 2000, "stored twice"


@pytest.mark.parametrize("when_down", ["block", "spill"])
async def test_a_full_stream_loses_nothing(server: Server, machines: Path, when_down: Any) -> None:
    limits: dict[str, Any] = {"discard": "new", "max_msgs": 100}
    await add_stream(server, **limits)
    spill = (str(machines / "spill"), 10**6) if when_down == "spill" else None
    ledger = Ledger()
    async with linked(server, machines, when_down=when_down, spill=spill) as (out, sender, sub):
        await numbered(sender, 1, 300)
        await until(lambda: "maximum messages exceeded" in out.numbers.problem)
        assert out.numbers.sent == 100
        about = {"name": "zbus", "subjects": ["zbus.>"], "storage": "file", "retention": "limits"}
        await api(server, "STREAM.UPDATE.zbus", about | limits | {"max_msgs": 1000})
        await until(lambda: out.numbers.sent == 300)
        await ledger.read(sub.channel(), 300)
        ledger.balances(sub.channel(), 300)
        assert sub.lost == 0
        assert out.numbers.problem == ""


async def test_with_drop_nobody_waits_and_what_was_dropped_is_told(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.links.packet._PACKETS", 50)
    await add_stream(server)
    ledger = Ledger()
    async with linked(server, machines, when_down="drop") as (out, sender, sub):
        await numbered(sender, 1, 20)
        await ledger.read(sub.channel(), 20)
        server.kill()
        await until(lambda: not out.numbers.server)
        await numbered(sender, 21, 200)
        await until(lambda: out.numbers.dropped == 150)
        server.start()
        await ledger.read(sub.channel(), 220)  # without another event: the tail is told, too
        ledger.balances(sub.channel(), 220)
        assert sub.lost == 150


async def test_with_spill_nobody_waits_and_nothing_is_lost(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.links.packet._PACKETS", 50)
    await add_stream(server)
    file = machines / "spill"
    ledger = Ledger()
    async with linked(server, machines, when_down="spill", spill=(str(file), 10**6)) as (out, sender, sub):
        for turn in range(2):
            await numbered(sender, 500 * turn + 1, 100)
            server.kill()
            await until(lambda: not out.numbers.server)
            await numbered(sender, 500 * turn + 101, 300)
            await until(lambda: out.numbers.waiting > 250)
            server.start()
            await numbered(sender, 500 * turn + 401, 100)
        await ledger.read(sub.channel(), 1000)
        ledger.balances(sub.channel(), 1000)
        assert sub.lost == 0
        await until(lambda: file.stat().st_size < 100)


async def test_what_a_killed_link_has_spilled_is_sent_by_the_next_one(server: Server, machines: Path) -> None:
    await add_stream(server)
    left, right, file = machines / "left", machines / "right", machines / "spill"
    ledger = Ledger()
    async with (
        running(server, right, into=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("orders")
        link = Worker("out", server.url, left, file, module="tests.live.link_workers")
        try:
            await said(link, "connected")
            await numbered(sender, 1, 10)
            await ledger.read(sub.channel(), 10)
            server.kill()
            await said(link, "down")
            await numbered(sender, 11, 200)
            await until(lambda: (seen := shown(left)) is not None and seen.waiting == 200)
        finally:
            await asyncio.to_thread(link.kill)
        server.start()
        async with running(server, left, out=["orders"], when_down="spill", spill=(str(file), 10**6)):
            await until_it_listens(server)
            await numbered(sender, 211, 10)
            await ledger.read(sub.channel(), 220)
        ledger.balances(sub.channel(), 220)
        assert sub.lost == 0


async def test_what_a_killed_link_held_in_memory_is_told(server: Server, machines: Path) -> None:
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    ledger = Ledger()
    async with (
        running(server, right, into=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("orders")
        link = Worker("out", server.url, left, module="tests.live.link_workers")
        try:
            await said(link, "connected")
            await numbered(sender, 1, 10)
            await ledger.read(sub.channel(), 10)
            server.kill()
            await said(link, "down")
            await numbered(sender, 11, 20)
        finally:
            await asyncio.to_thread(link.kill)
        server.start()
        async with running(server, left, out=["orders"]):
            await until_it_listens(server)
            await numbered(sender, 31, 10)
            await ledger.read(sub.channel(), 40)
        ledger.balances(sub.channel(), 40)
        assert sub.lost == 20


async def test_a_killed_link_that_brings_in_continues(server: Server, machines: Path) -> None:
    """What it had sent here and not acknowledged is sent again, and left out by those who have got it."""
    await add_stream(server)
    left, right = machines / "left", machines / "right"
    got: list[int] = []
    async with (
        running(server, left, out=["orders"]) as out,
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
    ):
        sub = await receiver.subscribe("orders")
        sent = 0
        for _ in range(3):
            link = Worker("into", server.url, right, module="tests.live.link_workers")
            try:
                await said(link, "connected")
                await until_it_listens(server)
                task = asyncio.create_task(numbered(sender, sent + 1, 500))
                got += [evt.seq for evt in await receive(sub.channel(), 200)]
            finally:
                await asyncio.to_thread(link.kill)
            await task
            sent += 500
        await until(lambda: out.numbers.sent == sent)
        async with running(server, right, into=["orders"], name="killed"):
            while not got or max(got) < sent:
                got += [evt.seq for evt in await receive(sub.channel(), 1)]
        assert got == [*range(1, sent + 1)]
        assert sub.lost == 0


async def test_what_is_stored_late_is_told_lost_and_comes_once(server: Server, machines: Path) -> None:
    """As when a stream has refused a message and taken the next one, and then the first."""
    await add_stream(server)
    right = machines / "right"
    async with (
        running(server, right, into=["orders"]) as into,
        zbus.aio.Bus(dir=right) as receiver,
        client_of(server) as client,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("orders")
        for number in (1, 3, 2, 4):
            item = Relayed("5f0c9a1b2c3d4e5f", "orders", "x", number, "a" * 16, b"/x", b"", b"1")
            await client.publish("zbus.other.orders.x", b"1", headers=encode(item)[0])
        assert [evt.seq for evt in await receive(sub.channel(), 3)] == [1, 3, 4]
        assert [gap[3:] for gap in sub.channel().gaps] == [(2, 2)]
        assert (into.numbers.received, into.numbers.repeated) == (3, 1)


async def test_a_slow_network_holds_publishers_back_and_loses_nothing(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.links.packet._PACKETS", 50)
    await add_stream(server)
    left, right, ledger = machines / "left", machines / "right", Ledger()
    async with (
        slowed(server, 400_000) as url,
        running(server, right, into=["orders"]),
        zbus.aio.Bus(dir=left) as sender,
        zbus.aio.Bus(dir=right) as receiver,
        Link(url, dir=left, out=["orders"], notice=print) as out,
    ):
        await until_it_listens(server)
        sub = await receiver.subscribe("orders")
        task = asyncio.create_task(out.run())
        await until(lambda: out.numbers.server)
        await numbered(sender, 1, 1500)
        await ledger.read(sub.channel(), 1500)
        ledger.balances(sub.channel(), 1500)
        assert sub.lost == 0
        out.stop()
        await asyncio.wait_for(task, LONG)


async def test_a_stream_that_soon_forgets_what_it_has_stored_is_named(server: Server, machines: Path) -> None:
    await add_stream(server, duplicate_window=10**9)
    said: list[str] = []
    async with Link(server.url, dir=machines, out=["orders"], notice=said.append) as out:
        task = asyncio.create_task(out.run())
        await until(lambda: any("stream zbus tells copies for 1 s only" in text for text in said))
        out.stop()
        await asyncio.wait_for(task, LONG)


async def test_a_link_ends_though_a_cancellation_was_lost(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` loses one before Python 3.12 if the result comes at the same time."""
    waiting = asyncio.Event()

    async def streams_of(*_: object) -> list[str]:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return []
        raise AssertionError

    monkeypatch.setattr("zbus.links.outbound.streams_of", streams_of)
    await add_stream(server)
    async with Link(server.url, dir=machines, out=["orders"], notice=print) as out:
        task = asyncio.create_task(out.run())
        await asyncio.wait_for(waiting.wait(), LONG)
        out.stop()
        await asyncio.wait_for(task, LONG)
        await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_link_that_has_carried_nothing_shows_that_its_server_is_gone(
    server: Server, machines: Path
) -> None:
    await add_stream(server)
    async with running(server, machines, into=["orders"]):
        await until(lambda: (seen := shown(machines)) is not None and seen.server)
        server.kill()
        await until(lambda: not shown(machines).server and shown(machines).problem)


async def test_a_connection_that_is_given_up_sends_nothing_any_more(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the kernel holds, either: copies might come when the stream has forgotten that it has them."""
    monkeypatch.setattr("zbus.links.outbound._ACK_SECONDS", 0.5)
    await add_stream(server)
    data, count = "x" * 100_000, 200  # more than the buffers of a connection hold
    async with (
        hanging(server) as (url, hang, ended),
        zbus.aio.Bus(dir=machines) as sender,
        Link(url, dir=machines, out=["orders"], notice=print) as out,
    ):
        task = asyncio.create_task(out.run())
        await until(lambda: out.numbers.server)
        hang.set()
        for _ in range(count):
            await sender.send("orders", "x", "/x", data, timeout=LONG)
        await until(lambda: out.numbers.sent == count)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ended(), LONG)
        out.stop()
        await asyncio.wait_for(task, LONG)
    assert (await api(server, "STREAM.INFO.zbus"))["state"]["messages"] == count
