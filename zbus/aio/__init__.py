"""The bus for asyncio: the same names and meanings with `await`, `async for` and `async with`.

Only the waiting differs. A channel waits for a descriptor and then takes what is there; a send that has to
wait waits between its attempts; joining and closing, which may block, run in a thread. Use a bus on one event
loop at a time. The functions of this module use a default bus of their own, as those of `zbus` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack, overload

from ..event import T
from ..options import DEFAULT, SubscribeKeywords
from ..runtime.docstrings import as_of, details_of
from .bus import Bus
from .bus import default as _default
from .channel import Channel, Subscription, select

__all__ = ["Bus", "Channel", "Subscription", "close", "flush", "select", "send", "send_many", "subscribe"]


@overload
async def subscribe(
    system: str, kind: str | None = None, *, type: type[T] | None = None, **options: Unpack[SubscribeKeywords]
) -> Subscription[T]: ...
@overload
async def subscribe(
    system: str, kind: str | None = None, *, type: object, **options: Unpack[SubscribeKeywords]
) -> Subscription: ...
@as_of(Bus.subscribe, signature=True)
async def subscribe(system: str, kind: str | None = None, **options: Any) -> Subscription:
    """Subscribe on the default bus of asyncio, which opens at its first use; see `Bus.subscribe`."""
    return await _default.get().subscribe(system, kind, **options)


@as_of(Bus.send)
async def send(
    system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
) -> None:
    """Send an event on the default bus; see `Bus.send`."""
    await _default.get().send(system, kind, path, data, timeout=timeout)


@as_of(Bus.send_many)
async def send_many(
    system: str, kind: str, items: Iterable[tuple[str, Any]], *, timeout: float | None = DEFAULT
) -> int:
    """Send several events of one topic on the default bus; see `Bus.send_many`."""
    return await _default.get().send_many(system, kind, items, timeout=timeout)


@details_of(Bus.flush)
async def flush(timeout: float | None = DEFAULT) -> None:
    """Wait until every subscriber's process has taken what the default bus has sent, if that is open."""
    if _default.bus is not None and not _default.bus.closed:
        await _default.bus.flush(timeout)


async def close() -> None:
    """Close the default bus if it is open. The next use opens it again, on any loop."""
    if _default.bus is not None:
        await _default.bus.close()
