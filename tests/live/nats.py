"""A NATS server for tests: Debian's `nats-server`, on a port and with a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from nats.aio.client import Client

from .network import Network

__all__ = ["PROGRAM", "Server", "add_stream", "hanging", "nats_server", "needs_nats", "slowed"]

# Debian has it where the path of users may not lead.
PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_nats = pytest.mark.skipif(PROGRAM is None, reason="needs nats-server")
_START_SECONDS = 60.0


class Server:
    """A server that can be stopped, killed and started again with what it has stored.

    Attributes:
        host: its address.
        login: what the tests' own clients tell it of themselves.
    """

    def __init__(
        self, directory: Path, *options: str, jetstream: bool = True, network: Network | None = None
    ) -> None:
        self._directory = directory
        self._options = [*options, *(["-js", "-sd", str(directory)] if jetstream else [])]
        self._within = network.within if network is not None else ()
        self.host = network.host if network is not None else "127.0.0.1"
        self.port = free_port()
        self.url = f"nats://{self.host}:{self.port}"
        self.login: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [*self._within, str(PROGRAM), "-a", self.host, "-p", str(self.port), *self._options]
        log = self._directory.with_suffix(".log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(int(_START_SECONDS * 20)):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 0.5) as s:
                if s.recv(4) == b"INFO":
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
                break
        raise AssertionError(f"no server: {self._directory.with_suffix('.log').read_text()[-2000:]}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP and SIGCONT make a partition."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without any warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def nats_server(directory: Path, *options: str, jetstream: bool = True) -> Iterator[Server]:
    """Run a server, and end it."""
    server = Server(directory / "nats", *options, jetstream=jetstream)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(server.url, allow_reconnect=False, **server.login)
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def slowed(server: Server, bytes_per_second: int) -> AsyncIterator[str]:
    """Yield the address of a proxy that lets so many bytes a second through to a server and back."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / bytes_per_second)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(server.host, server.port)
        for ends in ((reader, requests), (answers, writer)):
            tasks.add(asyncio.create_task(carry(*ends)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as proxy:
        yield f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def hanging(
    server: Server,
) -> AsyncIterator[tuple[str, asyncio.Event, Callable[[], Awaitable[object]]]]:
    """Yield a proxy's address, what makes its first connection hang, and what then reads that to its end."""
    first: list[asyncio.StreamReader] = []
    hang = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not (hang.is_set() and reader in first) and (data := await reader.read(4096)):
                writer.write(data)
                await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(server.host, server.port)
        if not first:
            first.append(reader)
        writers.extend((writer, requests))
        for ends in ((reader, requests), (answers, writer)):
            tasks.add(asyncio.create_task(carry(*ends)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as proxy:
        yield f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", hang, lambda: first[0].read()
        for task in tasks:
            task.cancel()
        for end in writers:
            end.close()
        await asyncio.gather(*tasks, *(end.wait_closed() for end in writers), return_exceptions=True)


async def api(server: Server, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the API of JetStream."""
    async with client_of(server) as client:
        answer = await client.request(f"$JS.API.{call}", orjson.dumps(request or {}), timeout=30)
    found: dict[str, Any] = orjson.loads(answer.data)
    assert "error" not in found, found
    return found


async def add_stream(server: Server, name: str = "zbus", **config: Any) -> None:
    """Add a stream for all that links send."""
    about = {"name": name, "subjects": ["zbus.>"], "storage": "file", "retention": "limits"} | config
    await api(server, f"STREAM.CREATE.{name}", about)


def run(coroutine: Any) -> Any:
    """Run a coroutine to its end."""
    return asyncio.run(coroutine)
