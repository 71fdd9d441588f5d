"""The processes that are measured: raw pyzmq as a good user writes it, and zbus as anybody writes it.

    python peers.py ROLE ARGUMENTS...

`python tools/bench` starts them in pairs; each prints one JSON line when it is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import zmq

SYSTEM, KIND, PATH, END = "orders", "order.created", "/orders/123", "end"
DATA = {
    "order_id": "123",
    "customer_id": "456",
    "total": 99.99,
    "note": "the quick brown fox jumps over the dog",
}
assert len(json.dumps(DATA, separators=(",", ":"))) == 100
WARM_UP = 1000
COALESCE = 0.001
LARGE_QUEUE = 64  # events of 1 MiB; a thousand of them would be a gigabyte


def payload(size: int) -> Any:
    return bytes(size) if size else DATA


def report(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


def report_rate(count: int, start: float) -> None:
    report(events=count, rate=count / (time.perf_counter() - start))


def time_exchanges(exchange: Callable[[str], None], count: int) -> None:
    """Report the one-way latency, half of a round trip, in microseconds."""
    for _ in range(WARM_UP):
        exchange(KIND)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        exchange(KIND)
        times.append((time.perf_counter() - start) / 2 * 1e6)
    exchange(END)
    report_times(times)


def report_times(times: list[float]) -> None:
    times.sort()
    report(p50_us=times[len(times) // 2], p99_us=times[len(times) * 99 // 100])


# --- raw pyzmq: one frame an event, orjson on both sides, decoded fields, back-pressure, default queues


def raw_socket(kind: int, size: int = 0) -> Any:
    socket = zmq.Context.instance().socket(kind)
    if size:
        socket.set_hwm(LARGE_QUEUE)
    if kind == zmq.XPUB:
        socket.setsockopt(zmq.XPUB_NODROP, 1)
    return socket


def raw_encode(system: str, kind: str, path: str, data: Any) -> bytes:
    body = data if isinstance(data, bytes) else orjson.dumps(data)
    return b"\0".join((system.encode(), kind.encode(), path.encode(), body))


def raw_decode(frame: bytes) -> tuple[str, str, str, Any]:
    system, kind, path, body = frame.split(b"\0", 3)
    return system.decode(), kind.decode(), path.decode(), orjson.loads(body)


def raw_decode_bytes(frame: bytes) -> tuple[str, str, str, bytes]:
    system, kind, path, body = frame.split(b"\0", 3)
    return system.decode(), kind.decode(), path.decode(), body


def raw_publish(endpoint: str, count: str, size: str) -> None:
    socket = raw_socket(zmq.XPUB, int(size))
    socket.bind(endpoint)
    socket.recv()  # the subscription
    data = payload(int(size))
    for _ in range(int(count)):
        socket.send(raw_encode(SYSTEM, KIND, PATH, data))
    socket.send(raw_encode(SYSTEM, END, PATH, data))
    socket.close()
    zmq.Context.instance().term()


def raw_subscribe(endpoint: str, size: str) -> None:
    decode: Callable[[bytes], tuple[str, str, str, Any]] = raw_decode_bytes if int(size) else raw_decode
    socket = raw_socket(zmq.SUB, int(size))
    socket.subscribe(SYSTEM.encode() + b"\0")
    socket.connect(endpoint)
    decode(socket.recv())
    start = time.perf_counter()
    count = 0
    while True:
        _system, kind, _path, _data = decode(socket.recv())
        if kind == END:
            break
        count += 1
    report_rate(count, start)


def raw_pair(mine: str, theirs: str) -> tuple[Any, Any]:
    publisher = raw_socket(zmq.XPUB)
    publisher.bind(mine)
    subscriber = raw_socket(zmq.SUB)
    subscriber.subscribe(b"")
    subscriber.connect(theirs)
    publisher.recv()
    return publisher, subscriber


def raw_ping(ping: str, pong: str, count: str) -> None:
    publisher, subscriber = raw_pair(ping, pong)

    def exchange(kind: str) -> None:
        publisher.send(raw_encode(SYSTEM, kind, PATH, DATA))
        raw_decode(subscriber.recv())

    time_exchanges(exchange, int(count))


def raw_pong(ping: str, pong: str) -> None:
    publisher, subscriber = raw_pair(pong, ping)
    kind = ""
    while kind != END:
        _, kind, _, data = raw_decode(subscriber.recv())
        publisher.send(raw_encode(SYSTEM, kind, PATH, data))
    publisher.close(linger=1000)


# --- zbus: `send` or `send_many`, `for evt in sub`, loss accounting on as always


def open_bus(directory: str, size: str = "0") -> Any:
    import zbus  # here, so that `memory_base` is without it

    options = {"capacity": LARGE_QUEUE} if int(size) else {}
    return zbus.Bus("bench", dir=directory, **options)


def await_subscribers(directory: str, count: int) -> None:
    """Wait until so many ingresses listen, so that nothing is sent to nobody."""
    import zbus

    while sum(peer.role == "subscriber" for peer in zbus.peers("bench", dir=directory)) < count:
        time.sleep(0.001)


def coalesce_publish(directory: str, count: str, topics: str) -> None:
    """Send with `coalesce` to some topics in turn; report the rate at which it does."""
    import zbus

    kinds = [KIND] if topics == "1" else [f"{KIND}.{number}" for number in range(int(topics))]
    with zbus.Bus("bench", dir=directory, coalesce=COALESCE) as bus:
        publish_in_turn(bus, directory, int(count), kinds)


def turns_publish(directory: str, count: str, topics: str) -> None:
    """Send to some topics in turn, without `coalesce`."""
    with open_bus(directory) as bus:
        publish_in_turn(bus, directory, int(count), [f"{KIND}.{number}" for number in range(int(topics))])


def publish_in_turn(bus: Any, directory: str, count: int, kinds: list[str]) -> None:
    await_subscribers(directory, 1)
    for _ in range(count // len(kinds)):
        for kind in kinds:
            bus.send(SYSTEM, kind, PATH, DATA)
    bus.send(SYSTEM, END, PATH)


def zbus_publish(directory: str, count: str, size: str, batch: str) -> None:
    with open_bus(directory, size) as bus:
        await_subscribers(directory, 1)
        data = payload(int(size))
        if batch == "1":
            for _ in range(int(count)):
                bus.send(SYSTEM, KIND, PATH, data)
        else:
            items = [(PATH, data)] * int(batch)
            for _ in range(int(count) // int(batch)):
                bus.send_many(SYSTEM, KIND, items)
        bus.send(SYSTEM, END, PATH)


def zbus_subscribe(directory: str, size: str) -> None:
    with open_bus(directory, size) as bus:
        # As many as libzmq queues by default, which is what the raw subscriber has.
        sub = bus.subscribe(SYSTEM, overflow="block", capacity=1000)
        events = iter(sub)
        next(events)
        start = time.perf_counter()
        count = 0
        for evt in events:
            if evt.kind == END:
                break
            count += 1
        report_rate(count, start)
        assert sub.lost == 0


def zbus_ping(directory: str, count: str) -> None:
    with open_bus(directory) as bus:
        ping(bus, directory, count)


def coalesce_ping(directory: str, count: str) -> None:
    import zbus

    with zbus.Bus("bench", dir=directory, coalesce=COALESCE) as bus:
        ping(bus, directory, count)


def ping(bus: Any, directory: str, count: str) -> None:
    events = iter(bus.subscribe("pong"))
    await_subscribers(directory, 2)

    def exchange(kind: str) -> None:
        bus.send("ping", kind, PATH, DATA)
        next(events)

    time_exchanges(exchange, int(count))


def zbus_pong(directory: str) -> None:
    with open_bus(directory) as bus:
        pong(bus)


def coalesce_pong(directory: str) -> None:
    import zbus

    with zbus.Bus("bench", dir=directory, coalesce=COALESCE) as bus:
        pong(bus)


def pong(bus: Any) -> None:
    for evt in bus.subscribe("ping"):
        bus.send("pong", evt.kind, evt.path, evt.data)
        if evt.kind == END:
            break


def zbus_publish_threads(directory: str, count: str, threads: str) -> None:
    """Send by several threads through one bus; report the rate at which they do."""
    with open_bus(directory) as bus:
        await_subscribers(directory, 1)
        bus.send(SYSTEM, KIND, PATH, DATA)
        share = int(count) // int(threads)

        def run() -> None:
            for _ in range(share):
                bus.send(SYSTEM, KIND, PATH, DATA)

        workers = [threading.Thread(target=run) for _ in range(int(threads))]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rate = share * int(threads) / (time.perf_counter() - start)
        bus.send(SYSTEM, END, PATH)
        report(sent_rate=rate)


# --- zbus.aio: `async for evt in sub`


def open_aio_bus(directory: str) -> Any:
    from zbus import aio

    return aio.Bus("bench", dir=directory)


def aio_subscribe(directory: str) -> None:
    async def run() -> None:
        async with open_aio_bus(directory) as bus:
            sub = await bus.subscribe(SYSTEM, overflow="block", capacity=1000)
            await anext(aiter(sub))
            start = time.perf_counter()
            count = 0
            async for evt in sub:
                if evt.kind == END:
                    break
                count += 1
            report_rate(count, start)
            assert sub.lost == 0

    asyncio.run(run())


def aio_ping(directory: str, count: str) -> None:
    async def run() -> None:
        async with open_aio_bus(directory) as bus:
            sub = await bus.subscribe("pong")
            events = aiter(sub)
            await_subscribers(directory, 2)
            times = []
            for number in range(WARM_UP + int(count)):
                start = time.perf_counter()
                await bus.send("ping", KIND, PATH, DATA)
                await anext(events)
                if number >= WARM_UP:
                    times.append((time.perf_counter() - start) / 2 * 1e6)
            await bus.send("ping", END, PATH)
            await anext(events)
            report_times(times)

    asyncio.run(run())


def aio_pong(directory: str) -> None:
    async def run() -> None:
        async with open_aio_bus(directory) as bus:
            async for evt in await bus.subscribe("ping"):
                await bus.send("pong", evt.kind, evt.path, evt.data)
                if evt.kind == END:
                    break

    asyncio.run(run())


def zbus_wait(directory: str) -> None:
    """Subscribe and read until the standard input ends."""
    with open_bus(directory) as bus:
        _sub = bus.subscribe("*")
        report(ready=1)
        sys.stdin.read()


def zbus_join(directory: str) -> None:
    """Time the first `send` of a new process, then its `subscribe` calls, in milliseconds."""
    with open_bus(directory) as bus:
        start = time.perf_counter()
        bus.send(SYSTEM, KIND, PATH, DATA)
        first_send = (time.perf_counter() - start) * 1e3
        times = []
        for _ in range(20):
            start = time.perf_counter()
            sub = bus.subscribe("orders.**", "order.*")
            times.append((time.perf_counter() - start) * 1e3)
            sub.close()
        report(first_send_ms=first_send, first_subscribe_ms=times[0], subscribe_ms=sorted(times)[10])


def resident_kib() -> int:
    with open(f"/proc/{os.getpid()}/statm") as file:
        return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)


def memory_base() -> None:
    report(kib=resident_kib())


def memory_zbus(directory: str) -> None:
    with open_bus(directory) as bus:
        _sub = bus.subscribe("orders.**")
        report(kib=resident_kib())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
