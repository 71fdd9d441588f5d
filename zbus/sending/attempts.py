"""What a send that cannot be done at once goes through: one frame, and the attempts to send it.

    Sender.send, Publisher.send_many ─► Unsent ─► Publisher.drive ─► Attempts ◄─ run_blocking, or `aio.bus`

The publisher makes the attempts. Between two of them it yields the sockets to wait for, so the threaded bus
and its asyncio twin differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import zmq

from ..errors import Invalid
from ..protocol.relayed import Relayed

__all__ = ["TRY_SECONDS", "Attempts", "Unsent", "run_blocking", "too_large_error"]

Attempts = Iterator[list[zmq.Socket[bytes]]]
"""Tries to send until it has worked or the timeout is over. After each failed attempt it yields the sockets
that may tell of room. Its driver waits for them in its own way, with the lock free."""

TRY_SECONDS = 0.02
"""How long one attempt may hold the publisher's lock, so that threads with other timeouts get their turn."""


class Unsent(NamedTuple):
    """A frame that is about to be sent, or waits to be.

    Attributes:
        system, kind: its topic.
        path: the encoded path of its event; empty for a batch.
        body: its data, or its batch, encoded.
        events: how many events it holds.
        relayed: the event of another bus that it is; `None` if it is one of this publisher.
    """

    system: str
    kind: str
    path: bytes
    body: bytes
    events: int
    relayed: Relayed | None = None


def run_blocking(attempts: Attempts) -> None:
    """Drive attempts that wait in themselves."""
    for _ in attempts:
        pass


def too_large_error(size: int, limit: int) -> Invalid:
    """Return the error of a send whose frame would have more than `limit` bytes."""
    return Invalid(
        f"the event has {size:,} bytes, more than max_event_bytes={limit:,}: send less, or raise the limit in"
        " every process of this bus",
        bytes=size,
        limit=limit,
    )
