"""Fault 23: two machines and a NATS server between them, while the server and both links are killed.

One ledger for all of it: what the other machine has got, and what it was told is lost, is all that was sent.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zbus
from tests.live.nats import PROGRAM, Server, add_stream, api
from tests.live.process import Worker

from .harness import Row, Stage, until

__all__ = ["links_killed"]

_LIMIT = 120.0
_AT_ONCE = 0  # what a killed link had not acknowledged is sent again; who has got it leaves it out
_PACE_SECONDS = 0.005


class _Sender(threading.Thread):
    """Sends numbers, in order, until it is told to stop."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._bus = zbus.Bus(dir=directory)
        self.stopping = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Send until told to stop."""
        with self._bus as bus:
            while not self.stopping.wait(_PACE_SECONDS):
                bus.send("orders", "x", "/x", self.sent + 1, timeout=_LIMIT)
                self.sent += 1


class _Reader(threading.Thread):
    """Keeps the ledger of the other machine."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._bus = zbus.Bus(dir=directory)
        self._channel = self._bus.subscribe("orders", overflow="block").channel()
        self.stopping = threading.Event()
        self.got: set[int] = set()
        self.repeated = self.backwards = self.last = 0

    def run(self) -> None:
        """Receive until told to stop."""
        with self._bus:
            while not self.stopping.is_set():
                try:
                    evt, _ = self._channel.receive(0.1)
                except zbus.Timeout:
                    continue
                self.repeated += evt.seq in self.got
                self.backwards += evt.seq not in self.got and evt.seq < self.last
                self.got.add(evt.seq)
                self.last = max(self.last, evt.seq)

    @property
    def lost(self) -> int:
        """How many events it was told are lost."""
        return self._channel.lost

    def accounted(self) -> int:
        """Return how many events are in the ledger."""
        return len(self.got) + self.lost


class _Scene:
    """The server, the links, and what is done to them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.machines = Path(stage.dir)
        self.server = Server(stage.scratch / "nats")
        self.done: Counter[str] = Counter()
        self.links: dict[str, Worker] = {}

    def start(self, name: str) -> None:
        """Start a link, and wait until it is connected."""
        spill = (self.stage.scratch / "spill",) if name == "out" else ()
        worker = Worker(name, self.server.url, self.machines / name, *spill, module="tests.live.link_workers")
        self.links[name] = worker
        while worker.hear(_LIMIT)["is"] != "connected":
            pass

    def end(self) -> None:
        """Kill what runs."""
        for link in self.links.values():
            link.kill()
        self.server.kill()

    def server_killed(self) -> None:
        self.server.kill()
        self._pause(0.1, 2.0)
        self.server.start()

    def server_stopped(self, seconds: float = 0.0) -> None:
        self.server.send_signal(signal.SIGSTOP)
        time.sleep(seconds or self.stage.random.uniform(0.1, 3.0))
        self.server.send_signal(signal.SIGCONT)

    def link_out_killed(self) -> None:
        self._again("out")

    def link_in_killed(self) -> None:
        self._again("into")

    def link_out_killed_while_the_server_is_away(self) -> None:
        self.server.kill()
        self._pause(0.1, 1.0)
        self.links["out"].kill()
        self.server.start()
        self.start("out")

    def _again(self, name: str) -> None:
        self.links[name].kill()
        self._pause(0.0, 0.5)
        self.start(name)

    def _pause(self, least: float, most: float) -> None:
        time.sleep(self.stage.random.uniform(least, most))

    def act(self, what: Callable[..., None], *arguments: Any) -> None:
        """Do something to them."""
        self.done[what.__name__.replace("_", " ")] += 1
        what(*arguments)


def links_killed(stage: Stage) -> Iterator[Row]:
    row = stage.row("SIGKILL and SIGSTOP a NATS server and the links between two machines")
    if PROGRAM is None:
        yield row.skip("needs nats-server")
        return
    scene = _Scene(stage)
    sender, reader = _Sender(scene.machines / "out"), _Reader(scene.machines / "into")
    try:
        scene.server.start()
        asyncio.run(add_stream(scene.server))
        scene.start("into")
        until(lambda: asyncio.run(_consumers(scene.server)), _LIMIT, "the link in listens")
        scene.start("out")
        reader.start()
        sender.start()
        _disturb(scene, reader, stage.size(600, 8))
        sender.stopping.set()
        sender.join(_LIMIT)
        until(lambda: reader.accounted() >= sender.sent, _LIMIT, "all that was sent is accounted for")
    finally:
        sender.stopping.set()
        reader.stopping.set()
        for thread in (sender, reader):
            if thread.is_alive():
                thread.join(_LIMIT)
        stored = asyncio.run(api(scene.server, "STREAM.INFO.zbus"))["state"]["messages"]
        scene.end()
    _judge(row, scene, sender.sent, reader, stored)
    yield row


async def _consumers(server: Server) -> object:
    return (await api(server, "CONSUMER.NAMES.zbus")).get("consumers")


def _disturb(scene: _Scene, reader: _Reader, seconds: int) -> None:
    actions = [
        scene.server_killed,
        scene.server_stopped,
        scene.link_out_killed,
        scene.link_in_killed,
        scene.link_out_killed_while_the_server_is_away,
    ]
    deadline = time.monotonic() + seconds
    if not scene.stage.quick:
        scene.act(scene.server_stopped, 30.0)
    for action in actions:
        scene.act(action)
    while time.monotonic() < deadline:
        time.sleep(scene.stage.random.uniform(0.1, 4.0))
        scene.act(scene.stage.random.choice(actions))
        before = reader.last
        until(lambda before=before: reader.last > before, _LIMIT, "events arrive again")


def _judge(row: Row, scene: _Scene, sent: int, reader: _Reader, stored: int) -> None:
    row.done = ", ".join(f"{name} {count} times" for name, count in scene.done.items())
    row.lost = f"{reader.lost:,} of {sent:,}, all told; {reader.repeated:,} came again"
    row.equal("got and told lost", reader.accounted(), sent)
    row.equal("numbers got", (min(reader.got), max(reader.got) <= sent), (1, True))
    row.equal("out of order", reader.backwards, 0)
    row.equal("stored twice, or not told of", stored, len(reader.got))
    killed = scene.done["link in killed"]
    row.claim(f"came again: {reader.repeated}", reader.repeated <= killed * _AT_ONCE)
