"""The two kinds of bus behind one face, so that one body of tests runs against both.

The face is that of `zbus.aio`. `Threads` gives it to the bus that waits in threads, by a thread for each call
that may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import zbus
from zbus import aio

__all__ = ["TWINS", "Twin"]

_END = object()


class _Face:
    """Passes on what does not wait: attributes and properties."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def close(self) -> None:
        await asyncio.to_thread(self.inner.close)

    async def __aenter__(self) -> Any:
        self.inner.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self.inner.__exit__, *error)

    async def __aiter__(self) -> AsyncIterator[zbus.Event]:
        events = iter(self.inner)
        while (evt := await asyncio.to_thread(next, events, _END)) is not _END:
            assert isinstance(evt, zbus.Event)
            yield evt


class _ThreadChannel(_Face):
    async def receive(self, timeout: float | None = None) -> Any:
        return await asyncio.to_thread(self.inner.receive, timeout)


class _ThreadSubscription(_Face):
    def __init__(self, inner: zbus.Subscription) -> None:
        super().__init__(inner)
        self._channel = _ThreadChannel(inner.channel())

    def channel(self) -> _ThreadChannel:
        return self._channel


class _ThreadBus(_Face):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(zbus.Bus(*args, **options))

    async def subscribe(self, *args: Any, **options: Any) -> _ThreadSubscription:
        return _ThreadSubscription(await asyncio.to_thread(self.inner.subscribe, *args, **options))

    async def send(self, *args: Any, **options: Any) -> None:
        await asyncio.to_thread(self.inner.send, *args, **options)

    async def send_many(self, *args: Any, **options: Any) -> int:
        return await asyncio.to_thread(self.inner.send_many, *args, **options)


async def _thread_select(*channels: Any, timeout: float | None = None) -> Any:
    faces = {face.inner: face for face in channels if isinstance(face, _ThreadChannel)}
    inner = [getattr(channel, "inner", channel) for channel in channels]
    channel, evt, ok = await asyncio.to_thread(zbus.select, *inner, timeout=timeout)
    return faces[channel], evt, ok


class Twin:
    """One kind of bus: how to open it, and its `select`."""

    def __init__(self, bus: Callable[..., Any], select: Callable[..., Any]) -> None:
        self.Bus = bus
        self.select = select


TWINS = {"threads": Twin(_ThreadBus, _thread_select), "asyncio": Twin(aio.Bus, aio.select)}
