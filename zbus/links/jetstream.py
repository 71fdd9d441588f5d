"""Calls to the API of JetStream, which nats-py has with more than a link needs."""

from __future__ import annotations

from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client

from .errors import Disconnected, check_allowed

__all__ = ["call_api", "streams_of"]

_API_SECONDS = 5.0


async def call_api(client: Client, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the API, and return what it answers.

    Raises:
        Disconnected: there is no JetStream, or it refuses, or this link may not call it.
        nats.errors.Error: no answer came.
    """
    try:
        answer = await client.request(f"$JS.API.{call}", orjson.dumps(request or {}), timeout=_API_SECONDS)
    except nats.errors.NoRespondersError:
        raise Disconnected("the server has no JetStream: start it with -js, or use --core") from None
    except nats.errors.TimeoutError:
        check_allowed(client, api=True)
        raise
    found: dict[str, Any] = orjson.loads(answer.data)
    if (error := found.get("error")) is not None:
        raise Disconnected(f"{call}: {error.get('description', error)}")
    return found


async def streams_of(client: Client, subject: str) -> list[str]:
    """Return the names of the streams that take a subject; raise as `call_api` does."""
    found = await call_api(client, "STREAM.NAMES", {"subject": subject})
    return [*map(str, found.get("streams") or [])]
