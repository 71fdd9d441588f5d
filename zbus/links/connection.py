"""Connecting to NATS.

nats-py can reconnect by itself, but then it sends what it still holds before anything else, which would
overtake what has to be sent again. So each connection is a client of its own, and none reconnects.
"""

from __future__ import annotations

import asyncio
import struct
from _socket import SO_LINGER, SOL_SOCKET
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.client import Client

from ..errors import Invalid
from .client import LinkClient
from .errors import Disconnected

__all__ = ["abandon", "close", "connect"]

_CONNECT_SECONDS = 3
_PING_SECONDS = 10
_CLOSE_SECONDS = 2.0
_NO_ADDRESS = "nats: invalid "
_REFUSED = ("authorization violation", "user authentication expired", "authentication")


async def connect(servers: list[str], name: str, options: dict[str, Any]) -> tuple[Client, asyncio.Event]:
    """Return a connection to the first of the servers that answers, and what is set when it ends.

    Raises:
        Disconnected: no server answers; try again later.
        Invalid: the server does not let this link in, or the address is none.
    """
    reasons: list[str] = []
    for server in servers:
        try:
            return await _connect(server, name, options)
        except Disconnected as error:
            reasons.append(str(error))
    raise Disconnected(f"cannot connect: {', '.join(reasons)}")


async def _connect(server: str, name: str, options: dict[str, Any]) -> tuple[Client, asyncio.Event]:
    client, closed = LinkClient(), asyncio.Event()
    seen: list[Exception] = []

    async def on_error(error: Exception) -> None:
        seen.append(error)
        del seen[:-10]

    async def on_closed() -> None:
        closed.set()

    try:
        async with asyncio.timeout(_CONNECT_SECONDS + 2):
            await client.connect(
                server,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # else it tries for ever, in here
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_SECONDS,
                ping_interval=_PING_SECONDS,
                closed_cb=on_closed,
                error_cb=on_error,
                **options,
            )
    except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
        await close(client)
        why = seen[-1] if seen and isinstance(error, nats.errors.NoServersError) else error
        text = " ".join(map(str, (error, *seen)))
        if any(word in text.lower() for word in _REFUSED):
            raise Invalid(f"the NATS server does not let this link in: {error}") from error
        if str(error).startswith(_NO_ADDRESS) or type(error) is ValueError:
            raise Invalid(f"{server} is no address of a NATS server: {error}") from error
        raise Disconnected(str(why) or "no answer") from error
    except BaseException:
        await close(client)
        raise
    return client, closed


async def close(client: Client) -> None:
    """Close a connection, in whatever state it is."""
    with suppress(Exception):  # whatever it is, the connection is of no more use
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()


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
