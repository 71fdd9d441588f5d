"""A channel that closes with much in its queue: it is not copied, and all of it stays receivable."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

import zbus

from .twins import TWINS, Twin

MIB = 1 << 20
COUNT = 60
ROOM = 4 * COUNT * MIB  # in bytes: nothing is dropped
SIZES = {
    "large": (MIB,),
    "small": (10,),
    "mixed": (10, MIB),
    "small, then large": (10,) * (COUNT // 2) + (MIB,) * (COUNT // 2),
}


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest, zbus_dir: str) -> Twin:
    return TWINS[request.param]


def payload(number: int, sizes: tuple[int, ...]) -> bytes:
    return number.to_bytes(4, "big") + bytes(sizes[number % len(sizes)])


async def fill(bus: Any, other: zbus.Bus, sizes: tuple[int, ...]) -> Any:
    """Return a subscription of `bus` in whose queue `COUNT` events are."""
    every = await bus.subscribe("*")
    sub = await bus.subscribe("a")
    for number in range(COUNT):
        other.send("a", "k", "/1", payload(number, sizes))
    other.send("z", "k", "/1")  # once the forwarder has come to it, all before are where they belong
    while (await every.channel().receive(timeout=30))[0].system != "z":
        pass
    await every.close()
    return sub


@pytest.mark.parametrize("end", ["sub", "bus"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
async def test_a_backlog_is_not_copied_and_stays_receivable(
    twin: Twin, zbus_dir: str, sizes: tuple[int, ...], end: str
) -> None:
    with zbus.Bus(dir=zbus_dir, capacity_bytes=ROOM) as other:
        bus = twin.Bus(capacity_bytes=ROOM)
        sub = await fill(bus, other, sizes)
        tracemalloc.start()
        try:
            await (sub if end == "sub" else bus).close()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MIB
        await bus.close()  # and with it the context that the frames are of
        for number in range(COUNT):
            evt, ok = await sub.channel().receive(timeout=30)
            assert ok
            assert evt.data == payload(number, sizes)
        assert await sub.channel().receive(timeout=5) == (None, False)
        assert sub.lost == 0


async def test_what_is_kept_is_let_go_with_the_channel(twin: Twin, zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir, capacity_bytes=ROOM) as other:
        bus = twin.Bus(capacity_bytes=ROOM)
        sub = await fill(bus, other, (MIB,))
        await bus.close()
        frames = sub.channel()._source.queue._frames
        assert sum(not isinstance(frame, bytes) for frame in frames) >= COUNT - 2
        async for _ in sub:
            pass
        assert not frames
