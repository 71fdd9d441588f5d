"""One rule for the name of a bus that is given none; and the default bus of asyncio."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus import aio

from .process import receive

WAYS = {
    "zbus.send": "zbus.send('jobs', 'done', '/1')",
    "zbus.send_many": "zbus.send_many('jobs', 'done', [('/1', 1)])",
    "zbus.Bus": "bus = zbus.Bus(); bus.send('jobs', 'done', '/1')",
    "zbus.aio.Bus": "asyncio.run(zbus.aio.Bus().send('jobs', 'done', '/1'))",
    "zbus.aio.send": "asyncio.run(zbus.aio.send('jobs', 'done', '/1'))",
    "zbus.aio.send_many": "asyncio.run(zbus.aio.send_many('jobs', 'done', [('/1', 1)]))",
    "zbus send": "subprocess.run([sys.executable, '-m', 'zbus', 'send', 'jobs', 'done', '/1'], check=True)",
}
PRELUDE = "import asyncio, subprocess, sys, zbus; "


@pytest.mark.parametrize("named", ["prod", "", None])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_send_meets_on_the_bus_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, zbus_dir: str, way: str, named: str | None
) -> None:
    if named is not None:
        monkeypatch.setenv("ZBUS_BUS", named)
    with zbus.Bus(named or "default") as bus:
        sub = bus.subscribe("jobs")
        subprocess.run([sys.executable, "-c", PRELUDE + WAYS[way]], check=True, timeout=60)
        assert receive(sub).path == "/1"
    assert [path.name for path in Path(zbus_dir, "v1").iterdir()] == [named or "default"]


def test_whoever_looks_looks_at_the_same_bus(monkeypatch: pytest.MonkeyPatch, zbus_dir: str) -> None:
    monkeypatch.setenv("ZBUS_BUS", "prod")
    with zbus.Bus() as bus:
        assert bus.name == "prod"
        assert [peer.pid for peer in zbus.peers()] == [os.getpid()]
        assert [peer.pid for peer in zbus.peers("prod")] == [os.getpid()]
        assert zbus.peers("default") == []
        listed = subprocess.run(
            [sys.executable, "-m", "zbus", "ls"], check=True, capture_output=True, text=True
        )
        assert str(os.getpid()) in listed.stdout


def run_closing(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run on a loop of its own, and close the default bus of asyncio on it."""

    async def whole() -> Any:
        try:
            return await main()
        finally:
            await aio.close()

    return asyncio.run(whole())


def test_the_default_bus_of_asyncio(monkeypatch: pytest.MonkeyPatch, zbus_dir: str) -> None:
    monkeypatch.setenv("ZBUS_BUS", "prod")

    async def main() -> list[Any]:
        sub = await aio.subscribe("jobs", overflow="block", capacity=10)
        await aio.send("jobs", "done", "/1", 1)
        assert await aio.send_many("jobs", "done", [("/2", 2), ("/3", 3)]) == 2
        got = [(await sub.channel().receive(timeout=30))[0] for _ in range(3)]
        return [evt.data for evt in got if evt is not None]

    assert run_closing(main) == [1, 2, 3]
    assert [path.name for path in Path(zbus_dir, "v1", "prod").iterdir()] == ["token"]


def test_one_loop_after_another_uses_it(zbus_dir: str) -> None:
    """It stays open between them, or is opened again if it was closed."""

    async def send(number: int) -> None:
        await aio.send("jobs", "done", "/1", number)

    async def take(sub: aio.Subscription) -> Any:
        evt, _ = await sub.channel().receive(timeout=30)
        return evt and evt.data

    sub = asyncio.run(aio.subscribe("jobs"))
    for number in range(3):
        asyncio.run(send(number))
        assert asyncio.run(take(sub)) == number
    asyncio.run(aio.close())
    assert asyncio.run(take(sub)) is None  # it was closed with the bus

    async def again() -> Any:
        own = await aio.subscribe("jobs")
        await send(4)
        return await take(own)

    assert run_closing(again) == 4


def test_a_forked_child_has_one_of_its_own(zbus_dir: str) -> None:
    async def main() -> Any:
        sub = await aio.subscribe("jobs")
        pid = os.fork()
        if not pid:
            try:
                asyncio.events._set_running_loop(None)
                run_closing(lambda: aio.send("jobs", "done", "/1", os.getpid()))
            finally:
                os._exit(0)
        evt, _ = await sub.channel().receive(timeout=10)
        os.waitpid(pid, 0)
        return evt and evt.data == pid

    assert run_closing(main)
