"""Links and servers: those that are away, forget everything, allow little, or refuse now and then."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import zbus
import zbus.aio
from zbus.links.client import LinkClient
from zbus.links.errors import Denied, Disconnected
from zbus.links.nats import Credentials, Link

from .nats import Server, add_stream, api, client_of, free_port, nats_server, needs_nats
from .test_link import LONG, consumers, linked, receive, receive_some, running, until
from .test_link_faults import Ledger, numbered

pytestmark = needs_nats
EVERYTHING = '{publish: ">", subscribe: ">"}'


@contextlib.asynccontextmanager
async def carrying(servers: list[str], root: Path, **options: Any) -> Any:
    """Run a link until the end of the block, whether it is connected or not; yield it and what it says."""
    said: list[str] = []
    async with Link(servers, dir=root, notice=said.append, **options) as link:
        task = asyncio.create_task(link.run())
        try:
            yield link, said
        finally:
            link.stop()
            await asyncio.wait_for(task, LONG)


async def test_a_link_finds_the_server_that_runs(machines: Path) -> None:
    """Of a port where nobody listens, one that stands still, and two that run, of which one is killed."""
    ports = [f"nats://127.0.0.1:{free_port()}"]
    roots = [machines / name for name in ("a", "b", "c")]
    for root in roots:
        root.mkdir()
    with nats_server(roots[0]) as still, nats_server(roots[1]) as one, nats_server(roots[2]) as other:
        both = {server.url.removeprefix("nats://"): server for server in (one, other)}
        still.send_signal(signal.SIGSTOP)
        for server in (one, other):
            await add_stream(server)
        urls = [*ports, still.url, one.url, other.url]
        async with (
            carrying(urls, machines / "bus", out=["orders"]) as (link, _),
            zbus.aio.Bus(dir=machines / "bus") as sender,
        ):
            await until(lambda: link.numbers.server in both)
            await numbered(sender, 1, 10)
            await until(lambda: link.numbers.sent == 10)
            first = link.numbers.server
            both.pop(first).kill()
            await until(lambda: link.numbers.server in both)
            await numbered(sender, 11, 10)
            await until(lambda: link.numbers.sent == 20)
            (last,) = both.values()
            assert (await api(last, "STREAM.INFO.zbus"))["state"]["messages"] == 10
        still.send_signal(signal.SIGCONT)


async def test_a_server_that_cannot_be_reached_is_named(machines: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    async with carrying([url], machines, out=["orders"]) as (link, said):
        await until(lambda: link.numbers.problem)
        port = int(url.rpartition(":")[2])
        assert f"Connect call failed ('127.0.0.1', {port})" in link.numbers.problem
        assert said == [f"{link.numbers.problem}: trying again"]


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_stream_that_was_lost_begins_again(server: Server, machines: Path, restarted: bool) -> None:
    """With an empty store, or removed; what is sent before there is a new one waits."""
    await add_stream(server)
    async with linked(server, machines) as (out, sender, sub):
        await numbered(sender, 1, 10)
        assert len(await receive(sub.channel(), 10)) == 10
        if restarted:
            server.kill()
            shutil.rmtree(machines / "nats")
            server.start()
        else:
            await api(server, "STREAM.DELETE.zbus")
        await numbered(sender, 11, 10)
        await until(lambda: "no stream of the server takes what is sent" in out.numbers.problem)
        await add_stream(server)
        got = await receive(sub.channel(), 10)
        assert [evt.data for evt in got] == [*range(11, 21)]
        await until(lambda: out.numbers.problem == "")
        assert sub.lost == 0


async def test_a_stream_that_has_lost_its_end_goes_on(server: Server, machines: Path) -> None:
    """It numbers what comes then as it numbered what it has lost, which the link has acknowledged."""
    store, backup = machines / "nats", machines / "backup"
    await add_stream(server)
    async with linked(server, machines) as (_, sender, sub):
        for first in (1, 6, 11):
            await numbered(sender, first, 5)
            assert [evt.data for evt in await receive(sub.channel(), 5)] == [*range(first, first + 5)]
            (consumer,) = await consumers(server)
            async with asyncio.timeout(LONG):
                while not (await api(server, f"CONSUMER.INFO.zbus.{consumer}"))["ack_floor"]["stream_seq"]:
                    await asyncio.sleep(0.01)
            server.kill()
            if first == 1:
                shutil.copytree(store, backup)
            elif first == 6:
                shutil.rmtree(store)
                shutil.copytree(backup, store)
            server.start()
        assert sub.lost == 0


async def test_a_stream_of_a_domain_is_a_stream(machines: Path) -> None:
    config = machines / "nats.conf"
    config.write_text(f'jetstream {{ domain: hub, store_dir: "{machines}/store" }}')
    with nats_server(machines, "-c", str(config), jetstream=False) as server:
        await add_stream(server)
        async with linked(server, machines) as (out, sender, sub):
            await numbered(sender, 1, 300)
            assert [evt.data for evt in await receive(sub.channel(), 300)] == [*range(1, 301)]
            await until(lambda: out.numbers.sent == 300)


def allow(config: Path, *permissions: str) -> None:
    """Write the configuration of a server with users who have these permissions, and one who may do all."""
    users = [
        f"{{user: {name}, password: x, permissions: {may}}}"
        for name, may in zip(("link", "other"), permissions, strict=False)
    ]
    config.write_text(f"authorization {{ users: [ {{user: admin, password: x}}, {', '.join(users)} ] }}")


@pytest.mark.parametrize(
    ("permissions", "options", "denied"),
    [
        ('{publish: "$JS.API.>", subscribe: "_INBOX.>"}', {"out": ["orders"]}, 'publish to "zbus.default.'),
        ('{publish: "x", subscribe: ">"}', {"out": ["orders"], "core": True}, 'publish to "zbus.default.ord'),
        ('{publish: ">", subscribe: "x"}', {"out": ["orders"]}, 'subscription to "_inbox.>"'),
        ('{publish: ">", subscribe: "x"}', {"into": ["orders"], "core": True}, 'subscription to "zbus.*.o'),
        ('{publish: ">", subscribe: "zbus.>"}', {"into": ["orders"]}, 'subscription to "_inbox.>"'),
        ('{publish: "zbus.>", subscribe: ">"}', {"into": ["orders"]}, 'publish to "$js.api.stream.names"'),
    ],
)
async def test_what_a_server_does_not_allow_is_told_and_not_lost(
    machines: Path, permissions: str, options: dict[str, Any], denied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.links.jetstream._API_SECONDS", 0.5)
    config = machines / "nats.conf"
    allow(config, permissions)
    link_user = Credentials(user="link", password="x")
    with nats_server(machines, "-c", str(config)) as server:
        server.login = {"user": "admin", "password": "x"}
        await add_stream(server)
        async with (
            carrying([server.url], machines, credentials=link_user, **options) as (link, said),
            zbus.aio.Bus(dir=machines) as sender,
        ):
            await until(lambda: said)
            await numbered(sender, 1, 3)
            told = "the server does not allow it: permissions violation for "
            await until(lambda: told + denied in link.numbers.problem)
            assert link.numbers.sent == 0
            assert sum(text.startswith(told + denied) for text in said) == 1
            allow(config, EVERYTHING)
            server.kill()
            server.start()
            if "out" in options:
                await until(lambda: link.numbers.sent == 3)
            await until(lambda: said[-1].startswith("connected to "))
            assert link.numbers.problem == ""


@pytest.mark.parametrize(
    ("core", "out", "into"),
    [
        (
            False,
            '{publish: "zbus.default.>", subscribe: "_INBOX.>"}',
            '{publish: ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>"], subscribe: "_INBOX.>"}',
        ),
        (True, '{publish: "zbus.default.>", subscribe: "x"}', '{publish: "x", subscribe: "zbus.>"}'),
    ],
)
async def test_the_permissions_of_the_how_to_are_enough(
    machines: Path, monkeypatch: pytest.MonkeyPatch, core: bool, out: str, into: str
) -> None:
    monkeypatch.setattr("zbus.links.jetstream._API_SECONDS", 0.5)
    config, left, right = machines / "nats.conf", machines / "left", machines / "right"
    allow(config, out, into)
    first, second = (Credentials(user=user, password="x") for user in ("link", "other"))
    with nats_server(machines, "-c", str(config)) as server:
        server.login = {"user": "admin", "password": "x"}
        await add_stream(server)
        async with (
            running(server, right, into=["orders"], credentials=second, core=core) as receiving,
            running(server, left, out=["orders"], credentials=first, core=core) as sending,
            zbus.aio.Bus(dir=left) as sender,
            zbus.aio.Bus(dir=right) as receiver,
        ):
            first_events = await receiver.subscribe("orders", "first")
            sub = await receiver.subscribe("orders", "x")
            while not await receive_some(first_events.channel()):
                await sender.send("orders", "first", "/x")
            await numbered(sender, 1, 3000)
            assert [evt.data for evt in await receive(sub.channel(), 3000)] == [*range(1, 3001)]
            await until(lambda: sending.numbers.sent > 3000)
            for link in (sending, receiving):
                assert (link.numbers.problem, link.numbers.reconnects) == ("", 0)


@pytest.mark.parametrize(("error", "again"), [(Denied, False), (Disconnected, True)])
async def test_a_link_that_may_not_use_the_api_asks_once(
    server: Server, machines: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], again: bool
) -> None:
    """Else each connection would wait for an answer that does not come."""
    calls: list[str] = []

    async def streams_of(_: object, subject: str) -> list[str]:
        calls.append(subject)
        raise error("no")

    monkeypatch.setattr("zbus.links.outbound.streams_of", streams_of)
    await add_stream(server)
    async with running(server, machines, out=["orders"]) as link, zbus.aio.Bus(dir=machines) as sender:
        for count in (1, 2):
            await numbered(sender, count, 1)
            await until(lambda count=count: link.numbers.sent == count)
            if count == 1:
                server.kill()
                await until(lambda: not link.numbers.server)
                server.start()
    assert (len(calls) > 1) is again


async def test_a_flush_comes_after_what_was_sent_before() -> None:
    """So its answer says that the server has got that, which counts as carried without JetStream."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(b'INFO {"server_id": "a", "max_payload": 1000, "headers": true}\r\n')
            while line := await reader.readline():
                heard.append(line.split()[0] if line.strip() else b"")
                if heard[-1] == b"PING":
                    writer.write(b"PONG\r\n")

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        client = LinkClient()
        await client.connect(f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        heard.clear()
        for _ in range(3):
            await client.publish("a", b"x", headers={"b": "c"})
        await client.flush(LONG)
        await client.close()
    assert [word for word in heard if word in (b"HPUB", b"PING")] == [*[b"HPUB"] * 3, b"PING"]


@pytest.mark.parametrize(("room", "count"), [(1, 30), (10, 200)])
async def test_a_stream_that_refuses_and_takes_again_loses_nothing_untold(
    server: Server, machines: Path, room: int, count: int
) -> None:
    """It is full, and the link that brings in makes room while later messages are on their way."""
    await add_stream(server, discard="new", max_msgs=room, retention="interest", storage="memory")
    ledger = Ledger()
    async with linked(server, machines) as (out, sender, sub):
        await numbered(sender, 1, count)
        await ledger.read(sub.channel(), count)
        ledger.balances(sub.channel(), count)
        await until(lambda: out.numbers.sent == count)


async def test_two_links_share_a_stream_that_discards_new_messages(server: Server, machines: Path) -> None:
    """Each often comes between two messages of the other."""
    await add_stream(server, discard="new", storage="memory")
    other, ledger = machines / "other", Ledger()
    async with (
        linked(server, machines) as (out, sender, sub),
        running(server, other, out=["stock"]) as beside,
        zbus.aio.Bus(dir=other) as second,
    ):
        stock = (second.send("stock", "x", "/x", number) for number in range(2000))
        await asyncio.gather(numbered(sender, 1, 2000), *stock)
        await ledger.read(sub.channel(), 2000)
        ledger.balances(sub.channel(), 2000)
        await until(lambda: (out.numbers.sent, beside.numbers.sent) == (2000, 2000))
        assert (sub.lost, out.numbers.problem, beside.numbers.problem) == (0, "", "")
    assert (await api(server, "STREAM.INFO.zbus"))["state"]["messages"] == 4000, "stored twice"


async def test_a_full_work_queue_gets_events_in_order(server: Server, machines: Path) -> None:
    """Its consumer makes room while the stream refuses what is on its way."""
    await add_stream(server, discard="new", max_msgs=10, retention="workqueue", storage="memory")
    got: list[int] = []
    async with client_of(server) as client:

        async def take(message: Any) -> None:
            got.append(int(message.headers["zbus-seq"]))
            await client.publish(message.reply, b"+ACK")

        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=take)
        config = {"durable_name": "w", "deliver_subject": inbox, "ack_policy": "explicit"}
        await api(server, "CONSUMER.DURABLE.CREATE.zbus.w", {"stream_name": "zbus", "config": config})
        async with running(server, machines, out=["orders"]), zbus.aio.Bus(dir=machines) as sender:
            await numbered(sender, 1, 300)
            await until(lambda: len(got) >= 300)
    assert got == [*range(1, 301)]
