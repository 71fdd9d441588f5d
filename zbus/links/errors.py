"""How a connection of a link ends."""

from __future__ import annotations

import re

from nats.aio.client import Client

__all__ = ["Denied", "Disconnected", "check_allowed"]

_DENIED, _API = "permissions violation", '"$js.api.'
_INBOX = re.compile(r'_inbox\.[^"]*')


class Disconnected(Exception):
    """The connection is of no more use; the text says why. The link makes another one."""


class Denied(Disconnected):
    """The server does not allow what the link has asked for."""


def check_allowed(client: Client, *, api: bool = False) -> None:
    """Raise `Denied` if the server has refused what it was asked last.

    It closes no connection for that, and what is published without permission vanishes. Calls of the API
    count only with `api`, since who sends can do without.
    """
    text = str(client.last_error or "").lower()
    if _DENIED in text and (api or _API not in text):
        text = _INBOX.sub("_inbox.>", text.removeprefix("nats: "))  # a new one for each connection
        raise Denied(f"the server does not allow it: {text}")
