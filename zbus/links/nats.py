"""A link to NATS: a process beside others that carries chosen systems off this machine, and others in.

async with Link("nats://hub:4222", out=["orders.**"], into=["stock.**"], policy=policy) as link:
    await link.run()
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal

from nats.aio.client import Client

from ..errors import Invalid
from ..policy import SEND, SUBSCRIBE
from ..protocol.patterns import Matcher
from ..runtime.reports import report
from .connection import abandon, close, connect
from .consumer import Consumer
from .credentials import Credentials
from .errors import Disconnected
from .inbound import Inbound
from .local import LinkBus, LinkTap
from .numbers import LinkNumbers
from .outbound import Outbound
from .outbox import Outbox
from .spill import Spill
from .subject import filter_for, subject, subjects_of

__all__ = ["Credentials", "Link", "LinkNumbers"]

_PAUSES = 0.1, 2.0
_MEASURE_SECONDS = 0.5
_DRAIN_SECONDS = 5.0
_CANCEL_SECONDS = 0.2
_CACHED = 65_536
_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Link:
    """Carries events between a bus and NATS. Used on one event loop.

    Events keep their origin and number, so what is lost on the way shows in the channels of the other side.
    """

    def __init__(
        self,
        servers: str | Iterable[str],
        *,
        out: Iterable[str] = (),
        into: Iterable[str] = (),
        bus: str | None = None,
        dir: str | os.PathLike[str] | None = None,
        policy: Callable[[str, str], bool] | None = None,
        core: bool = False,
        name: str | None = None,
        stream: str | None = None,
        when_down: Literal["block", "drop", "spill"] = "block",
        spill: tuple[str, int] | None = None,
        credentials: Credentials | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """Open the bus; nothing is connected before `run`.

        Args:
            servers: one or more addresses such as `nats://host:4222`, or `tls://`.
            out: patterns of systems that are carried out.
            into: patterns of systems that are carried in.
            bus, dir: which bus; see `zbus.Bus`.
            policy: called as `policy("events.subscribe", system)` for what goes out, and as
                `policy("events.send", system)` for what comes in, once for each system.
            core: without JetStream: at most once, and only while both sides are connected.
            name: tells this link from others that bring events in from the same stream; the id of the bus by
                default. A second link of the same name ends the first.
            stream: where to bring events in from; by default the one stream that has them.
            when_down: what to do while the other side takes nothing: make publishers wait, drop events and
                tell which, or write them to a file.
            spill: the path of that file, and how many bytes it may have.
            credentials: who this link is. Its files are read again for each connection.
            notice: called with what people should know; logged if `None`.

        Raises:
            TypeError, Invalid, PermissionDenied, Unavailable: as for `zbus.Bus`. `Invalid` also for a
                malformed pattern, nothing to carry, or a file of `credentials` that is none;
                `Unavailable` also for a spill file that cannot be used.
        """
        self._servers = [servers] if isinstance(servers, str) else [*servers]
        self._out = [Matcher(pattern, "system pattern") for pattern in out]
        self._into = [Matcher(pattern, "system pattern") for pattern in into]
        if not self._out and not self._into:
            raise Invalid("nothing to carry: give patterns for out, for into, or for both")
        if name is not None and (not name or not set(name) <= _NAME):
            raise Invalid(f"{name!r} is no name of a link: use letters, digits, '_' and '-'", value=name)
        if (when_down == "spill") != (spill is not None):
            raise Invalid("when_down='spill' needs a file and a size, and nothing else does")
        self._credentials = credentials or Credentials()
        self._options = self._credentials.options()
        self._name = name
        self._stream = stream
        self._core = core
        self._notice = notice or (lambda text: report("link: %s", text))
        self.numbers = LinkNumbers()
        self._bus = LinkBus(bus, dir=dir)
        self._bus.show(self.numbers.public)
        file = Spill(*spill) if spill is not None else None
        self._outbox = Outbox(self.numbers, self._subject, file, when_down == "drop")
        self._allows_out = _cached(policy, SUBSCRIBE)
        self._allows_in = _cached(policy, SEND)
        self._taps: list[LinkTap] = []
        self._closed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = False
        self._told: str | None = None  # why the connection was lost; empty once it is made again

    def _subject(self, system: str, kind: str) -> str:
        return subject(self._bus.name, system, kind)

    async def run(self) -> None:
        """Carry events until `stop` is called, over as many connections as it takes.

        Raises:
            Invalid: the server does not let this link in, or an address is none. Not retryable.
            Canceled: another link of the same name has taken over. Not retryable.
        """
        bus_id = await self._bus.id()
        outbound = Outbound(
            self._bus,
            bus_id,
            self._outbox,
            self.numbers,
            self._allows_out,
            self._notice,
            core=self._core,
            subjects=subjects_of(self._bus.name),
        )
        subjects = filter_for(self._into)
        inbound = Inbound(
            self._bus,
            bus_id,
            self.numbers,
            _selects(self._into),
            self._allows_in,
            self._notice,
            filter=subjects,
            consumer=None if self._core else Consumer(self._name or bus_id, self._stream, subjects),
        )
        feeds = await self._feeds(outbound)
        measure = asyncio.create_task(self._measure())
        stopping = asyncio.create_task(self._stopping.wait())
        sessions = asyncio.create_task(self._sessions(outbound, inbound))
        try:
            await asyncio.wait({sessions, stopping, *feeds}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                await self._drain(feeds, inbound)
        finally:
            self._ended = True
            for task in (measure, stopping, sessions, *feeds):
                task.cancel()
            results = await asyncio.gather(sessions, *feeds, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _feeds(self, outbound: Outbound) -> list[asyncio.Task[None]]:
        feeds = []
        for number, matcher in enumerate(self._out):
            tap = await self._bus.tap(matcher.pattern)
            self._taps.append(tap)
            feeds.append(asyncio.create_task(outbound.feed(tap, _selects(self._out[:number]))))
        return feeds

    async def _sessions(self, outbound: Outbound, inbound: Inbound) -> None:
        loop = asyncio.get_running_loop()
        pause, calm, connected = _PAUSES[0], 0.0, 0
        while not self._ended:  # a cancellation can be lost, see `_end`
            with suppress(Invalid):  # of a file that is just written again, what it had before will do
                self._options = self._credentials.options()
            try:
                client, closed = await connect(self._servers, "zbus link", self._options)
                connected += 1
                self.numbers.reconnects = connected - 1
                url = client.connected_url
                self.numbers.server = url.netloc.rpartition("@")[2] if url is not None else ""
                begun = loop.time()
                # Later if the session before was short: what ended it may end this one, too.
                connection_told = loop.call_later(calm, self._tell_connected)
                try:
                    await self._session(client, closed, outbound, inbound)
                except Disconnected:
                    abandon(client)
                    raise
                finally:
                    connection_told.cancel()
                    self.numbers.server = ""
                    pause, calm = (
                        (_PAUSES[0], 0.0) if loop.time() > begun + _PAUSES[1] else (pause, _PAUSES[1])
                    )
                    await close(client)
            except Disconnected as error:
                if str(error) != self._told:
                    self._notice(f"{error}: trying again")
                    self._told = str(error)
                self.numbers.problem = self._told
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    def _tell_connected(self) -> None:
        if self._told is not None and self.numbers.problem == self._told:
            self.numbers.problem = ""
        if self._told != "":
            self._notice(f"connected to {self.numbers.server}")
        self._told = ""

    async def _session(
        self, client: Client, closed: asyncio.Event, outbound: Outbound, inbound: Inbound
    ) -> None:
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(closed.wait())]
        if self._out or not self._outbox.empty:
            tasks.append(asyncio.create_task(outbound.session(client)))
        if self._into:
            tasks.append(asyncio.create_task(inbound.session(client)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)
        for task in done:
            if (error := task.exception()) is not None:
                raise error
        raise Disconnected("the connection was lost")

    async def _measure(self) -> None:
        while True:
            self._outbox.measure()
            await asyncio.sleep(_MEASURE_SECONDS)

    async def _drain(self, feeds: list[asyncio.Task[None]], inbound: Inbound) -> None:
        """Leave the bus, and carry what has arrived, for some seconds at most."""
        tasks = [*feeds]
        if self._into and self.numbers.server:
            tasks.append(asyncio.create_task(inbound.drain()))
        for tap in self._taps:
            tap.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_SECONDS
        if tasks:
            await asyncio.wait(tasks, timeout=_DRAIN_SECONDS)
        while not self._outbox.empty and not self._outbox.down and loop.time() < deadline:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()

    def stop(self) -> None:
        """Have `run` end: leave the bus, and carry what has arrived, for 5 seconds at most."""
        self._stopping.set()

    async def close(self) -> None:
        """Leave the bus. What is not carried is lost, unless it is in the spill file."""
        for tap in self._taps:
            tap.close()
        self._outbox.measure()
        self._outbox.close()
        await self._bus.close()

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Before Python 3.12, `asyncio.wait_for` loses a cancellation that comes together with the result, and
    nats-py waits so.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_CANCEL_SECONDS)


def _selects(matchers: list[Matcher]) -> Callable[[str], bool]:
    @lru_cache(_CACHED)
    def selects(system: str) -> bool:
        return any(matcher.matches(system) for matcher in matchers)

    return selects


def _cached(policy: Callable[[str, str], bool] | None, action: str) -> Callable[[str], bool]:
    @lru_cache(_CACHED)
    def allows(system: str) -> bool:
        return policy is None or bool(policy(action, system))

    return allows
