"""The place of a link in a stream of JetStream.

A durable consumer gives out again what was not acknowledged, but not in order (nats-server issue 6114). So
each session makes a new one that begins where the one before was acknowledged, and removes that:

    zbus-NAME-1 ─ acknowledged up to 700 ─► zbus-NAME-2 begins at 701 ─► zbus-NAME-1 is removed

That also ends a link of the same name that still runs: it finds its consumer gone and a newer one there.
"""

from __future__ import annotations

import re
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import Canceled
from .errors import Disconnected
from .jetstream import call_api, streams_of

__all__ = ["Consumer", "flow_request", "place"]

_HEARTBEAT_SECONDS = 2
_UNACKNOWLEDGED = 4096
_ACK_WAIT_SECONDS = 3600


class Consumer:
    """A durable consumer, a new one for each connection.

    Attributes:
        acknowledged: the number in the stream of the latest message that was acknowledged.
    """

    def __init__(self, name: str, stream: str | None, filter: str) -> None:
        """Consume what `filter` admits, by default of the one stream that has it."""
        self._name = name
        self._given = stream
        self._stream = ""
        self._filter = filter
        self._generation = 0
        self._created = ""  # when the stream was
        self.acknowledged = 0

    async def begin(self, client: Client, inbox: str) -> None:
        """Make a consumer that continues where the one before was acknowledged, and remove that.

        Raises:
            Disconnected: it cannot be made now.
            Canceled: another link of the same name has taken over.
        """
        stream = self._stream = self._given or await self._find(client)
        known = await self._generations(client, stream)
        self._check_latest(known)
        begin = await self._first(client, stream, known)
        self.acknowledged = begin - 1
        self._generation = max([*known, self._generation]) + 1
        config = {
            "durable_name": self._durable(self._generation),
            "deliver_subject": inbox,
            "ack_policy": "all",
            "ack_wait": _ACK_WAIT_SECONDS * 10**9,
            "max_ack_pending": _UNACKNOWLEDGED,
            "idle_heartbeat": _HEARTBEAT_SECONDS * 10**9,
            "flow_control": True,
            "filter_subject": self._filter,
            "replay_policy": "instant",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": begin,
        }
        name = self._durable(self._generation)
        await call_api(
            client, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}
        )
        for number in known:
            with suppress(Disconnected):
                await call_api(client, f"CONSUMER.DELETE.{stream}.{self._durable(number)}")

    async def _find(self, client: Client) -> str:
        names = await streams_of(client, self._filter)
        if len(names) == 1:
            return names[0]
        what = f"{len(names)} streams have" if names else "no stream has"
        raise Disconnected(
            f"{what} the subject {self._filter}: add one, name one with --stream, or use --core"
        )

    async def _first(self, client: Client, stream: str, known: list[int]) -> int:
        """Return the number in the stream to begin at."""
        about = await call_api(client, f"STREAM.INFO.{stream}")
        last = int(about["state"]["last_seq"])
        created, self._created = self._created, str(about.get("created"))
        if self._generation and created != self._created:  # it lost what it had, and numbers from 1 again
            return 1
        if known:  # what it says counts: the server may have lost the end of the stream, and numbers it again
            info = await call_api(client, f"CONSUMER.INFO.{stream}.{self._durable(min(known))}")
            floor, first = int(info["ack_floor"]["stream_seq"]), int(info["config"].get("opt_start_seq", 1))
            return min(max(floor + 1, first), last + 1)
        return (min(self.acknowledged, last) if self._generation else last) + 1

    def _check_latest(self, known: list[int]) -> None:
        if self._generation and known and max(known) > self._generation:
            raise Canceled(
                f"another link named {self._name!r} has taken over: give each link a name of its own"
            )

    def _durable(self, generation: int) -> str:
        return f"zbus-{self._name}-{generation}"

    async def _generations(self, client: Client, stream: str) -> list[int]:
        form = re.compile(rf"zbus-{re.escape(self._name)}-([1-9][0-9]{{0,9}})")
        names: list[str] = []
        while True:
            page = await call_api(client, f"CONSUMER.NAMES.{stream}", {"offset": len(names)})
            names += page.get("consumers") or []
            if not page.get("consumers") or len(names) >= page.get("total", 0):
                return sorted(int(match[1]) for name in names if (match := form.fullmatch(name)))

    async def look(self, client: Client) -> None:
        """Find out why not even a heartbeat comes; raise as `begin` does."""
        known = await self._generations(client, self._stream)
        self._check_latest(known)
        raise Disconnected("the server has sent nothing, not even a heartbeat")


def flow_request(message: Msg) -> str:
    """Return where the server wants to hear that all before this message was dealt with; empty if nowhere."""
    headers = message.headers or {}
    if headers.get("Status") != "100":
        return ""
    return message.reply or headers.get("Nats-Consumer-Stalled", "")  # with a heartbeat: it was not answered


def place(reply: str) -> tuple[int, int]:
    """Return the number of a message in the stream, and how many come after it; zeros for other messages."""
    fields = reply.split(".")
    begin = 5 if len(fields) == 9 else 7  # after this come the number for the consumer, and the time
    try:
        return (int(fields[begin]), int(fields[begin + 3])) if fields[1] == "ACK" else (0, 0)
    except (ValueError, IndexError):
        return 0, 0
