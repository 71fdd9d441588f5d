"""zbus: an event bus between processes and languages that needs no broker.

    import zbus

    sub = zbus.subscribe("orders.**")
    zbus.send("orders", "order.created", "/orders/123", {"total": 99.99})
    for evt in sub:
        print(evt.system, evt.kind, evt.path, evt.data)

The functions of this module use the default bus, which opens at its first use. Its name is `$ZBUS_BUS`, else
`default`, and its directory `$ZBUS_DIR`. `Bus()` without a name joins the same bus.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Unpack, overload

from . import errors
from .bus import Bus
from .bus import default as _default
from .channel import Channel, Subscription, select
from .errors import Canceled, Error, Invalid, PermissionDenied, Timeout, Unavailable
from .event import Event, Gap, Mismatch, T
from .options import DEFAULT, Overflow, SubscribeKeywords
from .policy import Policy, Rule
from .roster.numbers import ChannelNumbers, Numbers, TopicNumbers
from .roster.peers import Peer, peers
from .runtime.docstrings import as_of, details_of

__all__ = [
    "Bus",
    "Canceled",
    "Channel",
    "ChannelNumbers",
    "Error",
    "Event",
    "Gap",
    "Invalid",
    "Mismatch",
    "Numbers",
    "Overflow",
    "Peer",
    "PermissionDenied",
    "Policy",
    "Rule",
    "Subscription",
    "Timeout",
    "TopicNumbers",
    "Unavailable",
    "close",
    "errors",
    "flush",
    "peers",
    "select",
    "send",
    "send_many",
    "subscribe",
]

if TYPE_CHECKING:
    from . import aio as aio
    from . import logging as logging

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("aio", "logging"):  # imported at their first use: not every program needs asyncio
        return importlib.import_module(f"zbus.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@overload
def subscribe(
    system: str, kind: str | None = None, *, type: type[T] | None = None, **options: Unpack[SubscribeKeywords]
) -> Subscription[T]: ...
@overload
def subscribe(
    system: str, kind: str | None = None, *, type: object, **options: Unpack[SubscribeKeywords]
) -> Subscription: ...
@as_of(Bus.subscribe, signature=True)
def subscribe(system: str, kind: str | None = None, **options: Any) -> Subscription:
    """Subscribe on the default bus; see `Bus.subscribe`."""
    return _default.get().subscribe(system, kind, **options)


@as_of(Bus.send)
def send(system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT) -> None:
    """Send an event on the default bus; see `Bus.send`."""
    _default.get().send(system, kind, path, data, timeout=timeout)


@as_of(Bus.send_many)
def send_many(
    system: str, kind: str, items: Iterable[tuple[str, Any]], *, timeout: float | None = DEFAULT
) -> int:
    """Send several events of one topic on the default bus; see `Bus.send_many`."""
    return _default.get().send_many(system, kind, items, timeout=timeout)


@details_of(Bus.flush)
def flush(timeout: float | None = DEFAULT) -> None:
    """Wait until every subscriber's process has taken what the default bus has sent, if that is open."""
    if _default.bus is not None and not _default.bus.closed:
        _default.bus.flush(timeout)


def close() -> None:
    """Close the default bus if it is open. The next use opens it again."""
    if _default.bus is not None:
        _default.bus.close()
