"""Connecting to NATS.

nats-py can reconnect by itself, but then it sends what it still holds before anything else, which would
overtake what has to be sent again. So each connection is a client of its own, and none reconnects.
"""

from __future__ import annotations

import asyncio
import struct
from _socket import SO_LINGER, SOL_SOCKET
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.client import Client

from ..errors import Invalid
from .client import LinkClient
from .errors import Disconnected

__all__ = ["abandon", "connect"]

_CONNECT_SECONDS = 3
_PING_SECONDS = 10
_REFUSED = ("authorization violation", "user authentication expired", "authentication")


async def connect(
    servers: list[str], name: str, options: dict[str, Any], on_closed: Callable[[], Awaitable[None]]
) -> Client:
    """Return a connection; `on_closed` is called when it ends.

    Raises:
        Disconnected: no server answers; try again later.
        Invalid: the server does not let this link in, or the address is none.
    """
    client = LinkClient()
    seen: list[Exception] = []

    async def on_error(error: Exception) -> None:
        seen.append(error)
        del seen[:-10]

    try:
        async with asyncio.timeout(_CONNECT_SECONDS + 2):
            await client.connect(
                servers,
                name=name,
                allow_reconnect=False,
                connect_timeout=_CONNECT_SECONDS,
                ping_interval=_PING_SECONDS,
                closed_cb=on_closed,
                error_cb=on_error,
                **options,
            )
    except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
        text = " ".join(map(str, (error, *seen)))
        if any(word in text.lower() for word in _REFUSED):
            raise Invalid(f"the NATS server does not let this link in: {error}") from error
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise Invalid(f"{', '.join(servers)} is no address of a NATS server: {error}") from error
        raise Disconnected(str(error) or type(error).__name__) from error
    return client


def abandon(client: Client) -> None:
    """End a connection without sending what it still holds: the next one sends that again.

    If the network was cut, the kernel would send the old copies when it is back, two minutes later maybe. By
    then, the stream may have forgotten that it has them.
    """
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if isinstance(writer, asyncio.StreamWriter):
        held = writer.get_extra_info("socket")
        with suppress(OSError):  # it has ended by itself
            held.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
