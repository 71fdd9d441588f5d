"""Inbound: what NATS has goes to the bus on this machine, and is acknowledged once it is there.

`send` hands an event to libzmq, and what that has not written is lost with this process. So the link waits
for that before it acknowledges: for many events at once, since that takes as long as for one.

A durable consumer gives out again what was not acknowledged, but not in order (nats-server issue 6114). So
each session makes a new one that begins where the one before was acknowledged, and removes that:

    zbus-NAME-1 ─ acknowledged up to 700 ─► zbus-NAME-2 begins at 701 ─► zbus-NAME-1 is removed

That also ends a link of the same name that still runs: it finds its consumer gone and a newer one there.

While this bus takes nothing, what has arrived waits in memory. With JetStream, flow control bounds that: once
its window is full the server waits for the answer to a request, which comes among the messages. Without
JetStream nothing holds the server back, so the oldest are dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import Canceled, Invalid, Timeout
from ..protocol.relayed import Relayed
from ..protocol.wire import Malformed
from .dropped import Dropped
from .errors import Disconnected
from .headers import decode
from .jetstream import call_api, streams_of
from .local import LinkBus
from .numbers import LinkNumbers
from .subject import parse_subject

__all__ = ["Inbound"]

_UNACKNOWLEDGED = 4096
_ACK_EVERY = 1024  # waiting for every 128 costs 2 µs of 17 an event more (measured)
_ACK_SECONDS = 0.02  # nothing comes for so long: acknowledge what there is
_HEARTBEAT_SECONDS = 2
_SILENT_SECONDS = 7.0
_ACK_WAIT_SECONDS = 3600
_SEND_SECONDS = 5.0
_CORE_BYTES = 64 * 1024 * 1024  # of what waits here without JetStream
_OVERHEAD = 2500  # of the objects of a message, about


class Inbound:
    """Carries events in."""

    def __init__(
        self,
        bus: LinkBus,
        bus_id: str,
        numbers: LinkNumbers,
        wants: Callable[[str], bool],
        allows: Callable[[str], bool],
        notice: Callable[[str], None],
        *,
        filter: str,
        name: str,
        stream: str | None,
        core: bool,
    ) -> None:
        """Prepare; see `Link`. Ask `wants` what the patterns select, and `allows` what the policy lets in."""
        self._bus = bus
        self._relay = bus.relay
        self._bus_id = bus_id
        self._numbers = numbers
        self._wants = wants
        self._allows = allows
        self._notice = notice
        self._filter = filter
        self._name = name
        self._stream = stream
        self._core = core
        self._generation = 0
        self._created = ""  # when the stream was
        self._reply = ""
        self._stored = 0  # the number in the stream of the latest message that was dealt with
        self._acknowledged = 0  # and of the latest that was acknowledged
        self._unacknowledged = 0
        self._queue: deque[Msg] = deque()
        self._queued_bytes = 0  # only counted without JetStream
        self._dropped = Dropped()
        self._arrived = asyncio.Event()

    async def session(self, client: Client) -> None:
        """Receive by one connection until that fails.

        Raises:
            Disconnected: make another connection.
            Canceled: another link has taken over.
        """
        self._queue, self._arrived = deque(), asyncio.Event()
        self._unacknowledged = self._queued_bytes = 0
        try:
            if self._core:
                await self._subscribe(client, self._filter, self._bound)
                await self._receive(client, None)
            else:
                stream = self._stream or await self._find_stream(client)
                inbox = client.new_inbox()
                await self._subscribe(client, inbox)
                await self._begin(client, stream, inbox)
                await self._receive(client, stream)
        except (nats.errors.Error, OSError) as error:
            raise Disconnected(str(error) or type(error).__name__) from error

    async def _subscribe(
        self, client: Client, subject: str, bound: Callable[[Msg], None] | None = None
    ) -> None:
        queue, arrived = self._queue, self._arrived

        async def keep(message: Msg) -> None:  # without waking anybody for each message
            if not queue:
                arrived.set()
            queue.append(message)
            if bound is not None:
                bound(message)

        await client.subscribe(subject, cb=keep, pending_msgs_limit=1_000_000, pending_bytes_limit=0)

    def _bound(self, message: Msg) -> None:
        """Count a message that has arrived, and drop the oldest ones beyond the limit."""
        self._queued_bytes += _OVERHEAD + len(message.data)
        while self._queued_bytes > _CORE_BYTES and len(self._queue) > 1:
            oldest = self._queue.popleft()
            self._queued_bytes -= _OVERHEAD + len(oldest.data)
            if (item := self._item(oldest)) is not None:
                if not self._dropped:
                    self._notice("this bus takes too little: dropping the oldest of what has come in")
                self._numbers.dropped += bool(item.path)
                self._dropped.note(item)

    async def _receive(self, client: Client, stream: str | None) -> None:
        queue, arrived = self._queue, self._arrived
        while True:
            while queue:
                await self._take(client, queue.popleft())
            while self._dropped and not queue:  # of streams of which nothing came since
                await self._send(self._dropped.take_any())
            if queue:  # it wakes nobody any more
                continue
            arrived.clear()
            seconds = _ACK_SECONDS if self._unacknowledged else _SILENT_SECONDS
            try:
                async with asyncio.timeout(seconds if stream else None):
                    await arrived.wait()
            except TimeoutError:
                assert stream is not None
                if not self._unacknowledged:
                    await self._look(client, stream)
                await self._acknowledge(client)

    async def _take(self, client: Client, message: Msg) -> None:
        if self._core:
            self._queued_bytes -= _OVERHEAD + len(message.data)
            if (item := self._item(message)) is not None:
                if self._dropped and (lost := self._dropped.take(item[:3])) is not None:
                    await self._send(lost)
                await self._send(item)
            return
        stored, _ = _place(message.reply)
        if not stored:  # of the server
            if request := _flow_request(message):
                await client.publish(request)
            return
        if stored > self._stored:  # else it came before, and was not acknowledged
            if (item := self._item(message)) is not None:
                await self._send(item)
            self._stored = stored
        self._reply = message.reply
        self._unacknowledged += 1
        if self._unacknowledged >= _ACK_EVERY:
            await self._acknowledge(client)

    async def _acknowledge(self, client: Client) -> None:
        """Acknowledge all that was dealt with, once it is not lost with this process."""
        if not self._unacknowledged:
            return
        problem = ""
        while True:
            try:
                await self._bus.written(_SEND_SECONDS)
                break
            except Timeout as error:
                problem = f"this bus takes nothing: {error.message.partition(': try')[0]}"
                self._numbers.problem = problem
        if problem and self._numbers.problem == problem:
            self._numbers.problem = ""
        acknowledged, self._numbers.behind = _place(self._reply)
        await client.publish(self._reply, b"+ACK")
        self._acknowledged, self._unacknowledged = acknowledged, 0

    def _item(self, message: Msg) -> Relayed | None:
        """Return what a message says; `None` if it is left out, for a reason that is counted."""
        names = parse_subject(message.subject)
        if names is None or not self._wants(names[1]):
            return None
        try:
            item = decode(names[1:], message.headers or {}, message.data)
        except Malformed as error:
            self._refuse(f"in: {error}", f"left out a message on {message.subject}: {error}")
            return None
        if self._bus_id in item.via:
            return None
        if not self._allows(item.system):
            self._refuse(f"in: {item.system}", f"the policy keeps system {item.system} from coming in")
            return None
        return item

    async def _send(self, item: Relayed) -> None:
        relay = self._relay
        events, problem, lost = relay.events, "", False
        while True:
            try:
                rest = relay.send(item, _SEND_SECONDS)
                if rest is not None:
                    await rest
            except Timeout as error:  # whoever is full makes the other side wait, too
                problem = f"this bus takes nothing: {error.message.partition(', so ')[0]}"
                self._numbers.problem = problem
                continue
            except Invalid as error:
                if not lost:
                    self._refuse(f"in: {error.message}", error.message)
                if item.path:  # perhaps nothing follows that tells
                    item, lost = Relayed(*item[:3], item.seq + 1, item.via, first=item.seq), True
                    continue
            break
        if problem and self._numbers.problem == problem:
            self._numbers.problem = ""
        self._numbers.received += relay.events - events
        self._numbers.repeated = relay.repeated

    def _refuse(self, reason: str, text: str) -> None:
        if self._numbers.refuse(1, reason):
            self._notice(text)

    async def _find_stream(self, client: Client) -> str:
        names = await streams_of(client, self._filter)
        if len(names) == 1:
            return names[0]
        what = f"{len(names)} streams have" if names else "no stream has"
        raise Disconnected(
            f"{what} the subject {self._filter}: add one, name one with --stream, or use --core"
        )

    async def _begin(self, client: Client, stream: str, inbox: str) -> None:
        """Make a consumer that continues where the one before was acknowledged, and remove that."""
        known = await self._generations(client, stream)
        self._check_latest(known)
        begin = await self._first(client, stream, known)
        self._acknowledged = begin - 1
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

    async def _first(self, client: Client, stream: str, known: list[int]) -> int:
        """Return the number in the stream to begin at."""
        about = await call_api(client, f"STREAM.INFO.{stream}")
        created, self._created = self._created, str(about.get("created"))
        if self._generation and created != self._created:  # it lost what it had, and numbers from 1 again
            self._stored = self._acknowledged = 0
            return 1
        if known:
            info = await call_api(client, f"CONSUMER.INFO.{stream}.{self._durable(min(known))}")
            floor, first = info["ack_floor"]["stream_seq"], info["config"].get("opt_start_seq", 1)
            return int(max(floor + 1, first, self._acknowledged + 1))
        return (self._acknowledged if self._generation else int(about["state"]["last_seq"])) + 1

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

    async def _look(self, client: Client, stream: str) -> None:
        """Find out why not even a heartbeat comes."""
        known = await self._generations(client, stream)
        self._check_latest(known)
        raise Disconnected("the server has sent nothing, not even a heartbeat")


def _flow_request(message: Msg) -> str:
    """Return where the server wants to hear that all before this message was dealt with; empty if nowhere."""
    headers = message.headers or {}
    if headers.get("Status") != "100":
        return ""
    return message.reply or headers.get("Nats-Consumer-Stalled", "")  # with a heartbeat: it was not answered


def _place(reply: str) -> tuple[int, int]:
    """Return the number of a message in the stream, and how many come after it; zeros for other messages."""
    fields = reply.split(".")
    begin = 5 if len(fields) == 9 else 7  # after this come the number for the consumer, and the time
    try:
        return (int(fields[begin]), int(fields[begin + 3])) if fields[1] == "ACK" else (0, 0)
    except (ValueError, IndexError):
        return 0, 0
