"""Inbound: what NATS has goes to the bus on this machine, and is acknowledged once it is there.

`send` hands an event to libzmq, and what that has not written is lost with this process. So the link waits
for that before it acknowledges: for many events at once, since that takes as long as for one.

While this bus takes nothing, what has arrived waits in memory. With JetStream, flow control bounds that: once
its window is full the server waits for the answer to a request, which comes among the messages. Without
JetStream nothing holds the server back, so the oldest are dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import Invalid, Timeout
from ..protocol.relayed import Relayed
from ..protocol.wire import Malformed
from .consumer import Consumer, flow_request, place
from .dropped import Dropped
from .errors import Disconnected, check_allowed
from .headers import decode
from .local import LinkBus
from .numbers import LinkNumbers
from .subject import parse_subject

__all__ = ["Inbound"]

_ACK_EVERY = 1024  # waiting for every 128 costs 2 µs of 17 an event more (measured)
_ACK_SECONDS = 0.02  # nothing comes for so long: acknowledge what there is
_SILENT_SECONDS = 7.0
_SEND_SECONDS = 5.0
_FLUSH_SECONDS = 10
_CORE_BYTES = 64 * 1024 * 1024  # of what waits here without JetStream
_TELL_SECONDS = 60.0  # between two notices that something is dropped
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
        consumer: Consumer | None,
    ) -> None:
        """Prepare; see `Link`. Without a consumer, receive what `filter` admits, without JetStream.

        Ask `wants` what the patterns select, and `allows` what the policy lets in.
        """
        self._bus = bus
        self._relay = bus.relay
        self._bus_id = bus_id
        self._numbers = numbers
        self._wants = wants
        self._allows = allows
        self._notice = notice
        self._filter = filter
        self._consumer = consumer
        self._reply = ""  # to the latest message that was dealt with
        self._unacknowledged = 0
        self._queue: deque[Msg] = deque()
        self._queued_bytes = 0  # only counted without JetStream
        self._dropped = Dropped()
        self._blocked = ""  # why this bus takes nothing
        self._tell_at = 0.0
        self._arrived = asyncio.Event()
        self._draining = False
        self._drained = asyncio.Event()

    async def session(self, client: Client) -> None:
        """Receive by one connection until that fails.

        Raises:
            Disconnected: make another connection.
            Canceled: another link has taken over.
        """
        self._queue, self._arrived = deque(), asyncio.Event()
        self._unacknowledged = self._queued_bytes = 0
        try:
            if self._consumer is None:
                await self._subscribe(client, self._filter, self._bound)
            else:
                inbox = client.new_inbox()
                await self._subscribe(client, inbox)
                await self._consumer.begin(client, inbox)
            await self._receive(client)
        except (nats.errors.Error, OSError) as error:
            raise Disconnected(str(error) or type(error).__name__) from error

    async def drain(self) -> None:
        """Have what came in acknowledged, and nothing more sent on; without JetStream, all that has come."""
        self._draining = True
        self._arrived.set()
        await self._drained.wait()

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
        await client.flush(_FLUSH_SECONDS)
        check_allowed(client)

    def _bound(self, message: Msg) -> None:
        """Count a message that has arrived, and drop the oldest ones beyond the limit."""
        self._queued_bytes += _size(message)
        while self._queued_bytes > _CORE_BYTES and len(self._queue) > 1:
            oldest = self._queue.popleft()
            self._queued_bytes -= _size(oldest)
            if (item := self._item(oldest)) is not None:
                self._tell_dropping()
                self._numbers.dropped += bool(item.path)
                self._dropped.note(item)

    def _tell_dropping(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_SECONDS
            self._notice("this bus takes too little: dropping the oldest of what has come in")

    async def _receive(self, client: Client) -> None:
        queue, arrived, consumer = self._queue, self._arrived, self._consumer
        while True:
            while queue and not (self._draining and consumer is not None):
                await self._take(client, queue.popleft())
            while self._dropped and not queue:  # of streams of which nothing came since
                await self._send(self._dropped.take_any())
            if self._draining:
                if consumer is not None:
                    await self._acknowledge(client, consumer)
                    await client.flush(_FLUSH_SECONDS)
                self._drained.set()
                await asyncio.Event().wait()  # until this is cancelled
            if queue:  # it wakes nobody any more
                continue
            arrived.clear()
            seconds = _ACK_SECONDS if self._unacknowledged else _SILENT_SECONDS
            try:
                async with asyncio.timeout(seconds if consumer is not None else None):
                    await arrived.wait()
            except TimeoutError:
                assert consumer is not None
                if not self._unacknowledged:
                    await consumer.look(client)
                await self._acknowledge(client, consumer)

    async def _take(self, client: Client, message: Msg) -> None:
        consumer = self._consumer
        if consumer is None:
            self._queued_bytes -= _size(message)
            if (item := self._item(message)) is not None:
                if self._dropped and (lost := self._dropped.take(item[:3])) is not None:
                    await self._send(lost)
                await self._send(item)
            return
        number, _ = place(message.reply)
        if not number:  # of the server
            if request := flow_request(message):
                await client.publish(request)
            return
        if (item := self._item(message)) is not None:  # the relay leaves out what it has sent on before
            await self._send(item)
        self._reply = message.reply
        self._unacknowledged += 1
        if self._unacknowledged >= _ACK_EVERY:
            await self._acknowledge(client, consumer)

    async def _acknowledge(self, client: Client, consumer: Consumer) -> None:
        """Acknowledge all that was dealt with, once it is not lost with this process."""
        if not self._unacknowledged:
            return
        while True:
            try:
                await self._bus.written(_SEND_SECONDS)
                break
            except Timeout as error:
                self._set_blocked(error.message.partition(": try")[0])
        self._set_blocked("")
        check_allowed(client)  # such as the acknowledgement before
        acknowledged, self._numbers.behind = place(self._reply)
        await client.publish(self._reply, b"+ACK")
        consumer.acknowledged, self._unacknowledged = acknowledged, 0

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
        events, lost = relay.events, False
        while True:
            try:
                rest = relay.send(item, _SEND_SECONDS)
                if rest is not None:
                    await rest
            except Timeout as error:  # whoever is full makes the other side wait, too
                self._set_blocked(error.message.partition(", so ")[0])
                continue
            except Invalid as error:
                if not lost:
                    self._refuse(f"in: {error.message}", error.message)
                if item.path:  # perhaps nothing follows that tells
                    item, lost = Relayed(*item[:3], item.seq + 1, item.via, first=item.seq), True
                    continue
            break
        if self._blocked:
            self._set_blocked("")
        self._numbers.received += relay.events - events
        self._numbers.repeated = relay.repeated

    def _set_blocked(self, why: str) -> None:
        """Show why this bus takes nothing; with an empty text, that it takes events again."""
        before, self._blocked = self._blocked, why and f"this bus takes nothing: {why}"
        if why or self._numbers.problem == before:
            self._numbers.problem = self._blocked

    def _refuse(self, reason: str, text: str) -> None:
        if self._numbers.refuse(1, reason):
            self._notice(text)


def _size(message: Msg) -> int:
    """Return about how much memory a message takes."""
    return _OVERHEAD + len(message.data)
