"""What both kinds of bus promise: one body of tests, run against each."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import zbus

from .process import Spawn
from .quiet import fill_async, quiet
from .twins import TWINS, Twin


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest, zbus_dir: str) -> Twin:
    return TWINS[request.param]


async def take(sub: Any, count: int = 1, timeout: float = 30.0) -> list[zbus.Event]:
    """Return the next events of a subscription that is not closed."""
    events = []
    for _ in range(count):
        evt, ok = await sub.channel().receive(timeout=timeout)
        assert ok
        events.append(evt)
    return events


async def everything(sub: Any) -> list[zbus.Event]:
    """Return what is there or on its way from this process."""
    events: list[zbus.Event] = []
    while True:
        try:
            events += await take(sub, timeout=0.05)
        except zbus.Timeout:
            if quiet():
                return events


async def until_there() -> None:
    """Wait until all that was sent has come as far as it can without a receiver."""
    async with asyncio.timeout(30):
        while not quiet():
            await asyncio.sleep(0.01)


async def test_events_arrive_as_sent_in_order(twin: Twin) -> None:
    async with twin.Bus() as bus, await bus.subscribe("orders.**", "order.*") as sub:
        await bus.send("orders.eu", "order.created", "/1", {"total": 99.99})
        await bus.send("ordersx", "order.created", "/no")
        assert await bus.send_many("orders", "order.paid", [("/2", 2), ("/3", None)]) == 2
        await bus.send("orders", "order.image", "/4", b"\0\1")
        events = await take(sub, 4)
        assert [evt.path for evt in events] == ["/1", "/2", "/3", "/4"]
        assert [evt.data for evt in events] == [{"total": 99.99}, 2, None, b"\0\1"]
        assert [evt.seq for evt in events] == [1, 1, 2, 1]
        assert sub.lost == 0


async def test_iteration_gives_single_events_and_batches_and_ends_with_the_channel(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a")
        for number in range(0, 1000, 10):
            await bus.send("a", "b", "/1", number)
            await bus.send_many("a", "b", [("/1", n) for n in range(number + 1, number + 10)])
        got = []
        async for evt in sub:
            got.append(evt.data)
            if len(got) == 995:
                await sub.close()  # in the midst of a batch
        assert got == list(range(1000))
        assert await sub.channel().receive() == (None, False)


async def test_receive_times_out(twin: Twin) -> None:
    async with twin.Bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        for timeout in (0, 0.1):
            start = time.monotonic()
            with pytest.raises(TimeoutError, match="no event within") as caught:
                await channel.receive(timeout=timeout)
            assert time.monotonic() - start >= timeout
            assert isinstance(caught.value, zbus.Timeout)
        with pytest.raises(zbus.Invalid, match="timeout is -1"):
            await channel.receive(timeout=-1)


async def test_the_first_event_of_a_new_process_arrives(twin: Twin, spawn: Spawn) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("jobs")
        for number in range(3):
            spawn("send_once", number)
            assert [evt.data for evt in await take(sub, timeout=30)] == [number]


async def test_a_new_subscriber_gets_the_next_event(twin: Twin) -> None:
    async with twin.Bus() as bus, twin.Bus() as other:
        for number in range(100):
            sub = await other.subscribe("a")
            await bus.send("a", "b", "/1", number)
            got = await take(sub)
            while got[0].data != number:  # the one before may have been on its way to this process
                got = await take(sub)
            await sub.close()


async def test_drop_received_and_lost_add_up_exactly(twin: Twin) -> None:
    told: list[zbus.Gap] = []
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", capacity=100, on_gap=told.append)
        for number in range(5_000):
            await bus.send("a", "b", "/1", number)
        received = await everything(sub)
        await bus.send("a", "b", "/1", 5_000)
        received += await take(sub)
        assert len(received) + sub.lost == 5_001
        assert sub.lost == sum(gap.events for gap in told) > 0


async def test_block_refuses_what_has_no_room_and_goes_on_when_there_is(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", overflow="block", capacity=10)
        sent = await fill_async(lambda number: bus.send("a", "b", "/1", number - 1, timeout=0.1))
        with pytest.raises(zbus.Timeout, match=r"made no room within 0\.1 s") as caught:
            await bus.send("a", "b", "/1", timeout=0.1)
        assert caught.value.retryable
        waiting = asyncio.ensure_future(bus.send("a", "b", "/1", sent, timeout=30))
        events = await take(sub, sent + 1)
        await waiting
        assert [evt.data for evt in events] == list(range(sent + 1))
        assert sub.lost == 0


async def test_latest_gives_a_late_reader_each_key_once(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("metrics", overflow="latest")
        every = await bus.subscribe("metrics", overflow="block")
        for number in range(3_000):
            await bus.send("metrics", ("cpu", "disk")[number % 2], f"/host/{number % 6}", number)
        await take(every, 3_000)
        await until_there()
        assert [evt.data for evt in await everything(sub)] == list(range(2_994, 3_000))
        assert sub.channel().superseded == 2_994
        assert sub.lost == 0
        await bus.send("metrics", "cpu", "/host/0", "new")
        assert [evt.data for evt in await take(sub)] == ["new"]
        await bus.send("metrics", "cpu", "/host/0", "last")
        await bus.send("metrics", "cpu", "/host/1", "last")
        await until_there()
        await sub.close()
        assert [evt.data async for evt in sub] == ["last", "last"]
        assert await sub.channel().receive() == (None, False)


async def test_latest_keeps_the_order_in_which_keys_changed_last(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", overflow="latest")
        for path in ("/1", "/2", "/3", "/1", "/2", "/1"):
            await bus.send("a", "b", path)
        await until_there()
        assert [evt.path for evt in await everything(sub)] == ["/3", "/2", "/1"]


async def test_latest_with_more_keys_than_capacity_counts_what_it_forgets(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", overflow="latest", capacity=10)
        await bus.send_many("a", "b", [(f"/{n}", n) for n in range(25)])
        await until_there()
        assert [evt.data for evt in await everything(sub)] == list(range(15, 25))
        assert sub.lost == 15


async def test_use_after_close_is_canceled(twin: Twin) -> None:
    bus = twin.Bus()
    sub = await bus.subscribe("a")
    await bus.close()
    await bus.close()
    assert bus.closed
    for use in (
        lambda: bus.send("a", "b", "/1"),
        lambda: bus.send("a", "b", "/1", timeout=1),
        lambda: bus.send_many("a", "b", [("/1", 1)]),
        lambda: bus.subscribe("a"),
    ):
        with pytest.raises(zbus.Canceled, match="is closed: open a new one"):
            await use()
    assert await sub.channel().receive(timeout=1) == (None, False)


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("how", ["receive", "receive with a timeout", "iterate", "select"])
@pytest.mark.parametrize("end", ["sub", "bus"])
async def test_close_wakes_whoever_waits(twin: Twin, overflow: str, how: str, end: str) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", overflow=overflow)
        channel = sub.channel()

        async def wait() -> Any:
            if how == "iterate":
                return [evt async for evt in sub]
            if how == "select":
                return (await twin.select(channel))[1:]
            return await channel.receive(*([30] if "timeout" in how else []))

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        start = time.monotonic()
        await (sub if end == "sub" else bus).close()
        assert await asyncio.wait_for(waiting, 10) == ([] if how == "iterate" else (None, False))
        assert time.monotonic() - start < 5


async def test_select_takes_the_first_that_is_ready(twin: Twin, zbus_dir: str) -> None:
    async with twin.Bus() as bus, twin.Bus("other", dir=zbus_dir) as other:
        subs = [
            await bus.subscribe("a"),
            await other.subscribe("a", overflow="latest"),
            await bus.subscribe("b", overflow="block"),
        ]
        a, latest, b = (sub.channel() for sub in subs)
        for timeout in (0, 0.1):
            with pytest.raises(zbus.Timeout):
                await twin.select(a, latest, b, timeout=timeout)
        await bus.send("b", "k", "/b")
        channel, evt, ok = await twin.select(a, latest, b, timeout=5)
        assert (channel, evt.path, ok) == (b, "/b", True)
        await other.send("a", "k", "/other")
        channel, evt, ok = await twin.select(a, latest, b)
        assert (channel, evt.path, ok) == (latest, "/other", True)
        await bus.send("b", "k", "/2")
        await bus.send_many("a", "k", [("/1", None), ("/1", None)])
        assert [evt.path for evt in await take(subs[2])] == ["/2"]
        await bus.send("b", "k", "/2")
        await until_there()
        order = [await twin.select(b, a, a, timeout=5) for _ in range(3)]
        assert [channel for channel, _, _ in order] == [b, a, a]
        await subs[0].close()
        assert await twin.select(b, a, latest, timeout=5) == (a, None, False)


async def test_select_is_told_what_is_wrong(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a")
        with pytest.raises(zbus.Invalid, match="at least one channel"):
            await twin.select()
        with pytest.raises(TypeError, match=r"as sub\.channel\(\) returns, not str"):
            await twin.select(sub.channel(), "a")


async def test_an_event_wakes_a_select_that_waits(twin: Twin) -> None:
    async with twin.Bus() as bus:
        subs = [await bus.subscribe(name) for name in "abc"]
        channels = [sub.channel() for sub in subs]
        for index in (2, 0, 1, 1):
            waiting = asyncio.ensure_future(twin.select(*channels, timeout=30))
            await asyncio.sleep(0.01)
            await bus.send("abc"[index], "k", "/1")
            assert (await waiting)[0] is channels[index]


async def test_receivers_share_a_channel_without_loss_or_duplication(twin: Twin) -> None:
    async with twin.Bus() as bus:
        sub = await bus.subscribe("a", overflow="block")
        shares: list[list[int]] = [[], [], []]

        async def receive(share: list[int], timeout: float | None) -> None:
            ok = True
            while ok:
                try:
                    evt, ok = await sub.channel().receive(timeout=timeout)
                except zbus.Timeout:
                    continue
                if evt is not None:
                    share.append(evt.data)

        async def iterate() -> None:
            async for evt in sub:
                shares[0].append(evt.data)

        tasks = [
            asyncio.ensure_future(job)
            for job in (iterate(), receive(shares[1], None), receive(shares[2], 0.01))
        ]
        for number in range(0, 2_000, 10):
            await bus.send("a", "b", "/1", number)
            await bus.send_many("a", "b", [("/1", n) for n in range(number + 1, number + 10)])
        while sum(map(len, shares)) < 2_000:
            await asyncio.sleep(0.01)
        await sub.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert sorted(n for share in shares for n in share) == list(range(2_000))


async def test_bad_input_is_refused_before_anything_is_sent(twin: Twin) -> None:
    async with twin.Bus(policy=lambda _, resource: resource != "secret") as bus:
        sub = await bus.subscribe("*")
        for arguments in (("", "b", "/1"), ("a", "b*", "/1"), ("a", "b", ""), ("a", "b", "/1", float("nan"))):
            with pytest.raises(zbus.Invalid):
                await bus.send(*arguments)
        with pytest.raises(TypeError):
            await bus.send("a", 1, "/1")
        with pytest.raises(zbus.Invalid, match="not allowed to send events to system: secret"):
            await bus.send("secret", "b", "/1")
        with pytest.raises(zbus.Invalid, match="not allowed to subscribe to events from system: secret"):
            await bus.subscribe("secret")
        for options in (
            {"overflow": "newest"},
            {"capacity": 0},
            {"on_error": print},
            {"type": 3},
        ):
            with pytest.raises(zbus.Invalid):
                await bus.subscribe("a", **options)
        for options in ({"on_gap": 1}, {"on_error": 1, "type": int}, {"capacity": "1"}):
            with pytest.raises(TypeError):
                await bus.subscribe("a", **options)
        await bus.send("a", "b", "/1")
        assert [evt.seq for evt in await everything(sub)] == [1]


async def test_a_stopped_subscriber_delays_a_first_send_by_the_join_timeout_at_most(
    twin: Twin, spawn: Spawn
) -> None:
    stopped = spawn("idle_subscriber", "a", "drop", 100).ready()
    stopped.signal(signal.SIGSTOP)
    async with twin.Bus(join_timeout=0.3) as bus:
        sub = await bus.subscribe("a")
        start = time.monotonic()
        await bus.send("a", "b", "/1", 1)
        assert 0.3 <= time.monotonic() - start < 5
        await bus.send("a", "b", "/1", 2)
        assert [evt.data for evt in await take(sub, 2)] == [1, 2]
        assert next(peer for peer in zbus.peers() if peer.pid == os.getpid()).counters["join_timeouts"] == 1
    stopped.signal(signal.SIGCONT)


async def test_cycles_leave_threads_descriptors_and_files_as_they_were(twin: Twin, zbus_dir: str) -> None:
    async with twin.Bus() as bus:

        def footprint() -> tuple[int, int]:
            return len(os.listdir("/proc/self/fd")), len(list(Path(zbus_dir, "v1", "default").iterdir()))

        async def cycle(number: int) -> None:
            async with await bus.subscribe("a", overflow=("drop", "block", "latest")[number % 3]) as sub:
                await bus.send("a", "b", "/1", number)
                while (await take(sub))[0].data != number:
                    assert number

        for number in range(30):
            await cycle(number)
        before = footprint()
        for number in range(300):
            await cycle(number)
        # libzmq closes the descriptors of closed sockets in a thread of its own, shortly after.
        async with asyncio.timeout(10):
            while any(now > then for now, then in zip(footprint(), before, strict=True)):
                await asyncio.sleep(0.01)
