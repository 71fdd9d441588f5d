"""The processes with which a link is measured: a link, and a program that uses nats-py alone.

python link_peers.py ROLE ARGUMENTS...

Both do the same for each message. Out: the headers of a link, up to 4,096 messages that are not acknowledged,
one subscription for all answers; with core NATS, a flush for every 1,024. In: one push consumer, and one
acknowledgement for every 1,024 messages, and whenever none waits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from peers import DATA, END, KIND, PATH, SYSTEM, await_subscribers, report

from zbus.links.headers import encode
from zbus.links.nats import Link
from zbus.protocol.relayed import Relayed

WINDOW, FLUSH_EVERY, ACK_EVERY, TURN = 4096, 1024, 1024, 32
STREAM, CONSUMER, NAME = "zbus", "zbus-bench-1", "bench"
SUBJECT = f"zbus.bench.{SYSTEM}.{{}}"
BODY = orjson.dumps(DATA)
ALL: Any = {"pending_msgs_limit": 1_000_000, "pending_bytes_limit": 0}
LOOK_SECONDS = 0.01


def message(origin: str, number: int, kind: str = KIND) -> tuple[str, dict[str, str], bytes]:
    """Return the subject, headers and body of an event as a link sends it."""
    time = b"%d" % (1_764_192_207_000_000 + number)
    item = Relayed(origin, SYSTEM, kind, number, "a" * 16, PATH.encode(), time, BODY)
    return SUBJECT.format(kind.replace(".", "%2E")), *encode(item)


# --- nats-py alone


def nats_out(url: str, count: str, core: str, headers: str) -> None:
    """Publish; report at which rate messages were acknowledged, or flushed."""
    asyncio.run((_publish_core if int(core) else _publish)(url, int(count), bool(int(headers))))


async def _publish(url: str, count: int, with_headers: bool) -> None:
    client = Client()
    await client.connect(url)
    inbox, origin = client.new_inbox(), os.urandom(8).hex()
    acknowledged = sent = 0
    changed = asyncio.Event()

    async def on_answer(answer: Msg) -> None:
        nonlocal acknowledged
        assert b'"error"' not in answer.data, answer.data
        acknowledged += 1
        changed.set()

    await client.subscribe(f"{inbox}.*", cb=on_answer, **ALL)
    begin, before = time.perf_counter(), time.process_time()
    while acknowledged < count:
        while sent < count and sent - acknowledged < WINDOW:
            sent += 1
            subject, headers, body = message(origin, sent)
            await client.publish(subject, body, f"{inbox}.{sent}", headers if with_headers else None)
            if sent % TURN == 0:
                await asyncio.sleep(0)
        changed.clear()
        if acknowledged < count:
            await changed.wait()
    report(rate=count / (time.perf_counter() - begin), cpu=_cpu(before, count))
    await client.close()


async def _publish_core(url: str, count: int, with_headers: bool) -> None:
    client = Client()
    await client.connect(url)
    origin = os.urandom(8).hex()
    begin, before = time.perf_counter(), time.process_time()
    for number in range(1, count + 1):
        subject, headers, body = message(origin, number)
        await client.publish(subject, body, headers=headers if with_headers else None)
        if number % TURN == 0:
            await asyncio.sleep(0)
        if number % FLUSH_EVERY == 0:
            await client.flush()
    await client.flush()
    report(rate=count / (time.perf_counter() - begin), cpu=_cpu(before, count))
    await client.close()


def nats_in(url: str, count: str, core: str) -> None:
    """Receive; report the rate."""
    asyncio.run(_receive(url, int(count), bool(int(core))))


async def _receive(url: str, count: int, core: bool) -> None:
    client = Client()
    await client.connect(url)
    got = unacknowledged = 0
    begin = before = 0.0
    done, reply = asyncio.Event(), ""

    async def acknowledge() -> None:
        nonlocal unacknowledged
        if unacknowledged:
            unacknowledged = 0
            await client.publish(reply, b"+ACK")

    async def on_message(taken: Msg) -> None:
        nonlocal got, unacknowledged, begin, before, reply
        if not got:
            begin, before = time.perf_counter(), time.process_time()
        got += 1
        if not core:
            reply = taken.reply
            unacknowledged += 1
            if unacknowledged >= ACK_EVERY or not subscription.pending_msgs:
                await acknowledge()
        if got == count:
            done.set()

    inbox = f"zbus.*.{SYSTEM}.>" if core else client.new_inbox()
    subscription = await client.subscribe(inbox, cb=on_message, **ALL)
    if not core:
        await _consume(client, inbox)
    await client.flush()
    report(ready=1)
    await done.wait()
    await acknowledge()
    report(rate=count / (time.perf_counter() - begin), cpu=_cpu(before, count))
    await client.close()


async def _consume(client: Client, inbox: str) -> None:
    config = {
        "durable_name": "alone",
        "deliver_subject": inbox,
        "ack_policy": "all",
        "max_ack_pending": 4096,
        "deliver_policy": "all",
        "filter_subject": f"zbus.*.{SYSTEM}.>",
    }
    request = orjson.dumps({"stream_name": STREAM, "config": config})
    await client.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.alone", request, timeout=30)


# --- a link


def link_out(url: str, directory: str, count: str, core: str) -> None:
    """Carry out what another process sends; report at which rate it was taken."""
    asyncio.run(_link(Link(url, out=[SYSTEM], bus="bench", dir=directory, core=bool(int(core))), int(count)))


def link_in(url: str, directory: str, count: str, core: str) -> None:
    """Carry in to one subscriber; report the rate."""
    await_subscribers(directory, 1)
    core_only = bool(int(core))
    link = Link(url, into=[SYSTEM], bus="bench", dir=directory, core=core_only, name=NAME)
    asyncio.run(_link(link, int(count)))


async def _link(link: Link, count: int) -> None:
    numbers = link.numbers
    async with link:
        task = asyncio.create_task(link.run())
        while not numbers.server:
            await asyncio.sleep(LOOK_SECONDS)
        report(ready=1)
        while not (first := numbers.sent + numbers.received):
            await asyncio.sleep(0.001)
        begin, before = time.perf_counter(), time.process_time()
        while (now := numbers.sent + numbers.received) < count:
            await asyncio.sleep(LOOK_SECONDS)
        report(rate=(now - first) / (time.perf_counter() - begin), cpu=_cpu(before, now - first))
        assert not numbers.refused, numbers
        link.stop()
        await task


def _cpu(before: float, count: int) -> float:
    """Return how many microseconds of CPU this process has used for each message."""
    return 1e6 * (time.process_time() - before) / count


# --- what sends to those who receive


def send(url: str, count: str) -> None:
    """Send events to the server as fast as it reads, without a client in between."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        answers = connection.makefile("rb")
        connection.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":false}\r\n')
        origin = os.urandom(8).hex()
        for first in range(1, int(count) + 1, 1000):
            numbers = range(first, min(first + 1000, int(count) + 1))
            connection.sendall(b"".join(_command(origin, number) for number in numbers) + b"PING\r\n")
            while answers.readline() != b"PONG\r\n":
                pass
        connection.sendall(_command(origin, 1, END) + b"PING\r\n")
        while answers.readline() != b"PONG\r\n":
            pass


def _command(origin: str, number: int, kind: str = KIND) -> bytes:
    subject, headers, body = message(origin, number, kind)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(head), len(head) + len(body), head, body)


if __name__ == "__main__":
    arguments: list[Any] = sys.argv[2:]
    globals()[sys.argv[1]](*arguments)
