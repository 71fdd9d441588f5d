"""Connecting to NATS: who the link is, and what nats-py is told.

nats-py can reconnect by itself, but then it sends what it still holds before anything else, which would
overtake what has to be sent again. So each connection is a client of its own, and none reconnects.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client

from ..errors import Invalid
from .client import LinkClient
from .errors import Disconnected

__all__ = ["Credentials", "connect"]

_CONNECT_SECONDS = 3
_PING_SECONDS = 10
_REFUSED = ("authorization violation", "user authentication expired", "authentication")


@dataclass(frozen=True)
class Credentials:
    """Who a link is, and how it checks who the server is.

    Attributes:
        user, password: a name and a password.
        token: a token instead.
        nkey: a file with the seed of an NKey.
        creds: a file with a JWT and its seed.
        ca: a file with the certificates to check the server by; those of the system if empty.
        cert, key: files with a certificate of this link, and its key.
    """

    user: str = ""
    password: str = ""
    token: str = ""
    nkey: str = ""
    creds: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    def options(self) -> dict[str, Any]:
        """Return what nats-py is told.

        Raises:
            Invalid: a file cannot be read.
        """
        given = {
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "nkeys_seed": self.nkey,
            "user_credentials": self.creds,
        }
        options: dict[str, Any] = {name: value for name, value in given.items() if value}
        for path in filter(None, (self.nkey, self.creds)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise Invalid(f"cannot read {path}: {error.strerror}", path=path) from error
        if self.ca or self.cert:
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:  # which includes ssl.SSLError
            raise Invalid(f"cannot use the TLS files: {error}") from error
        return context


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
