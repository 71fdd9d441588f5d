"""Outbound: what is sent on the bus goes to NATS, in order, and counts as carried once NATS has it.

Publishing is pipelined: up to a window of messages is on its way, each with a reply subject of its own, and
one subscription takes the answers. Whatever ends the connection, the next one sends again, in order, all
that was not acknowledged. JetStream stores it once, because `Nats-Msg-Id` tells the copies.

When a stream refuses a message, for example because it is full, nothing new is sent until all answers are
there. Then the first that was refused is tried alone, and the rest follows once it is taken.

A stream that was full may have room again for the next message that is on its way, which would overtake. So
if a stream refuses what is new when it is full, messages are chained: while one is not acknowledged, the next
says that it must be stored right after it. If another publisher comes in between, the rest is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..protocol.relayed import Relayed, via_after
from .errors import Denied, Disconnected, check_allowed
from .jetstream import call_api, streams_of
from .local import LinkBus, LinkTap
from .numbers import LinkNumbers
from .outbox import Outbox
from .packet import Packet

__all__ = ["Outbound"]

_TURN = 32  # messages before other tasks have their turn
_CORE_BATCH = 1024
_REST_SECONDS = 0.3
_ACK_SECONDS = 10.0
_PAUSES = 0.05, 2.0  # the first and the longest, before a refused message is tried again
_FLUSH_SECONDS = 10
_HEADER_ROOM = 4096
_PENDING_BYTES = 1024 * 1024  # beyond twice as much, nats-py waits in `publish`, 10 s for each message
_NOT_IN_TURN = 10070  # its code for one that should have followed another, and did not
_TOO_LARGE = 10054  # the code of JetStream for a message that its stream will never take
_COPIES_SECONDS = 60  # a server that is started again may take so long


class Outbound:
    """Carries events out."""

    def __init__(
        self,
        bus: LinkBus,
        bus_id: str,
        outbox: Outbox,
        numbers: LinkNumbers,
        allows: Callable[[str], bool],
        notice: Callable[[str], None],
        *,
        core: bool,
        subjects: str,
    ) -> None:
        """Prepare; see `Link`. `allows` says whether the policy lets a system out.

        `subjects` selects all that may be published.
        """
        self._bus = bus
        self._bus_id = bus_id
        self._outbox = outbox
        self._numbers = numbers
        self._allows = allows
        self._notice = notice
        self._core = core
        self._subjects = subjects
        self._warned = False
        self._may_ask = True  # who may publish may not have to do with the API
        self._next = 0
        self._outstanding = 0
        self._refused = False
        self._full = False  # also for another reason than that the one before was
        self._probe = False
        self._chains = False
        self._before = ""  # the id of the latest message
        self._heard = 0.0
        self._tails: dict[tuple[str, str], Packet] = {}  # by subject and origin

    async def feed(self, tap: LinkTap, selected_before: Callable[[str], bool]) -> None:
        """Take events from the bus until the tap is closed; leave out what another tap has."""
        while (taken := await tap.take()) is not None:
            if taken.malformed and self._numbers.refuse(taken.malformed, "out: not JSON"):
                self._notice("left out an event whose data is not JSON")
            for item in taken.items:
                if not selected_before(item.system) and self._wanted(item):
                    item = item._replace(via=via_after(item.via, self._bus_id))
                    await self._outbox.accept(item)
            await asyncio.sleep(0)

    def _wanted(self, item: Relayed) -> bool:
        if self._bus_id in item.via:
            return False
        last = item.seq if item.path else item.seq - 1
        if item.via and self._bus.relay.knows(item[:3], last):  # this link has brought it from there
            return False
        if self._allows(item.system):
            return True
        if self._numbers.refuse(1, f"out: {item.system}"):
            self._notice(f"the policy keeps system {item.system} from going out")
        return False

    async def session(self, client: Client) -> None:
        """Send by one connection until that fails."""
        self._next, self._outstanding = self._outbox.window.begin, 0
        self._refused = self._full = self._probe = False
        self._outbox.set_down("")
        self._outbox.changed.set()
        try:
            if self._core:
                await self._send_core(client)
            else:
                await self._send_stored(client)
        except (nats.errors.Error, OSError) as error:
            raise Disconnected(str(error) or type(error).__name__) from error
        finally:
            self._outbox.set_down("not connected")

    async def _send_stored(self, client: Client) -> None:
        inbox = client.new_inbox()
        await client.subscribe(
            f"{inbox}.*", cb=self._on_answer, pending_msgs_limit=1_000_000, pending_bytes_limit=0
        )
        await self._examine_streams(client)
        self._heard = time.monotonic()
        pause = _PAUSES[0]
        while True:
            if self._refused:
                if self._outstanding:
                    await self._wait()
                    continue
                if self._full:  # else another publisher came in between: the rest is sent again at once
                    self._outbox.set_down(self._numbers.problem)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _PAUSES[1])
                    self._outbox.refill()
                self._full = False
                self._next, self._refused, self._probe = self._outbox.window.begin, False, True
            elif not self._probe:
                pause = _PAUSES[0]
            if not self._probe or not self._outstanding:
                await self._publish(client, inbox)
            check_allowed(client)
            await self._wait()

    async def _publish(self, client: Client, inbox: str) -> None:
        """Publish what is in the window, or the first of it for a probe."""
        window = self._outbox.window
        count = 0
        while self._next < window.end and not self._refused and client.pending_data_size < _PENDING_BYTES:
            number, packet = self._next, window.get(self._next)
            self._next += 1
            if packet is None or self._too_large(client, number, packet):
                continue
            if not self._outstanding:
                self._heard = time.monotonic()
            headers = packet.headers
            if self._chains:
                if self._outstanding:
                    headers = headers | {"Nats-Expected-Last-Msg-Id": self._before}
                self._before = headers["Nats-Msg-Id"]
            self._outstanding += 1
            await client.publish(packet.subject, packet.body, f"{inbox}.{number}", headers)
            count += 1
            if self._probe:
                return
            if count % _TURN == 0:
                await asyncio.sleep(0)

    async def _wait(self) -> None:
        """Wait for news; raise `Disconnected` if the server owes answers and has said nothing for long."""
        changed = self._outbox.changed
        if not self._outstanding:
            await changed.wait()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await changed.wait()
            if time.monotonic() - self._heard > _ACK_SECONDS and self._outstanding:
                raise Disconnected(f"the server has acknowledged nothing for {_ACK_SECONDS:g} s")
        changed.clear()

    async def _on_answer(self, message: Msg) -> None:
        self._heard = time.monotonic()
        self._outstanding -= 1
        data = message.data
        taken = bool(data) and b'"error"' not in data
        code, why = (0, "") if taken else _refusal(data)
        if taken or code == _TOO_LARGE:
            if self._probe:
                self._probe = False
                self._outbox.set_down("")
            number = int(message.subject.rpartition(".")[2])
            if taken:
                self._outbox.acknowledge(number)
            else:
                self._leave_out(number, f"left out an event: {why}")
            if not self._outstanding or self._refused or self._outbox.window.end > self._next:
                self._outbox.changed.set()
            return
        self._refused = True
        if code != _NOT_IN_TURN:
            if not self._full and self._numbers.problem != why:
                self._notice(why)
            self._numbers.problem, self._full = why, True
        self._outbox.changed.set()

    def _leave_out(self, number: int, text: str) -> None:
        if self._numbers.refuse(1, "out: too large"):
            self._notice(text)
        self._outbox.leave_out(number)

    async def _examine_streams(self, client: Client) -> None:
        """See whether to chain messages; say once if a stream forgets too early what it has stored."""
        self._chains = False
        if not self._may_ask:
            return
        try:
            names = await streams_of(client, self._subjects)
            configs = [(await call_api(client, f"STREAM.INFO.{name}"))["config"] for name in names]
        except (Disconnected, nats.errors.Error) as error:
            self._may_ask = not isinstance(error, Denied)  # each try would take seconds
            return
        self._chains = [config.get("discard") for config in configs] == ["new"]
        for config in configs if not self._warned else ():
            seconds = config.get("duplicate_window", 0) / 1e9
            if seconds < _COPIES_SECONDS:
                self._notice(
                    f"stream {config['name']} tells copies for {seconds:g} s only, so events may be stored"
                    f" twice after a failure: set its duplicate_window to {_COPIES_SECONDS} s or more"
                )
        self._warned = True

    def _too_large(self, client: Client, number: int, packet: Packet) -> bool:
        if len(packet.body) + _HEADER_ROOM <= client.max_payload:
            return False
        if (
            len(packet.body) + sum(len(k) + len(v) + 4 for k, v in packet.headers.items()) + 14
            <= client.max_payload
        ):
            return False
        size = f"{len(packet.body):,} bytes"
        self._leave_out(number, f"left out an event of {size}: max_payload is {client.max_payload:,}")
        return True

    async def _send_core(self, client: Client) -> None:
        """Send without acknowledgements: what the server has read counts as carried.

        While it reads one batch, the next one is published.
        """
        changed = self._outbox.changed
        begin = end = self._next
        flush: asyncio.Task[None] | None = None
        try:
            while True:
                published = await self._publish_core(client)
                if flush is not None:
                    await flush
                    check_allowed(client)  # what the server has refused, it has said by then
                    for number in range(begin, end):
                        self._outbox.acknowledge(number)
                    begin, flush = end, None
                if published:
                    end, flush = self._next, asyncio.create_task(client.flush(_FLUSH_SECONDS))
                    continue
                changed.clear()
                if self._next < self._outbox.window.end:
                    continue
                try:
                    async with asyncio.timeout(_REST_SECONDS if self._tails else None):
                        await changed.wait()
                except TimeoutError:
                    await self._send_marks(client)
        finally:
            if flush is not None:
                flush.cancel()
                await asyncio.gather(flush, return_exceptions=True)

    async def _publish_core(self, client: Client) -> bool:
        """Publish a batch; return whether there was something to publish."""
        window = self._outbox.window
        first = self._next
        while self._next < window.end and self._next < first + _CORE_BATCH:
            number, packet = self._next, window.get(self._next)
            self._next += 1
            if packet is None or self._too_large(client, number, packet):
                continue
            await client.publish(packet.subject, packet.body, headers=packet.headers)
            if packet.events:
                self._tails[packet.subject, packet.headers["zbus-origin"]] = packet
            if client.pending_data_size >= _PENDING_BYTES:
                break
            if self._next % _TURN == 0:
                await asyncio.sleep(0)
        return self._next > first

    async def _send_marks(self, client: Client) -> None:
        """Tell, now that nothing follows, which number would: nobody acknowledges what was last."""
        for (subject, _), packet in self._tails.items():
            headers = {name: packet.headers[name] for name in ("zbus-origin", "zbus-via")}
            headers["zbus-next"] = str(int(packet.headers["zbus-seq"]) + 1)
            await client.publish(subject, b"", headers=headers)
        self._tails.clear()
        await client.flush(_FLUSH_SECONDS)


def _refusal(data: bytes) -> tuple[int, str]:
    """Return the code of an error that JetStream answers, 0 if it has none, and what it says."""
    if not data:
        return 0, "no stream of the server takes what is sent: add one, or use --core"
    try:
        error = orjson.loads(data)["error"]
        return int(error.get("err_code", 0)), f"the stream refuses: {error['description']}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return 0, f"the stream refuses: {data[:200].decode(errors='replace')}"
