"""Two machines with a link each, a NATS server between them, and what can be done to them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import zbus
from tests.live.nats import Server
from tests.live.network import Network
from tests.live.process import Worker

from .harness import Stage, until
from .link_ledger import LIMIT, Life

__all__ = ["Scene"]


class Scene:
    """The server, the links, and what is done to them.

    Attributes:
        done: how often each thing was done.
        lives: when the link out ran.
    """

    def __init__(self, stage: Stage, *, spill: bool, network: Network | None) -> None:
        self.stage = stage
        self.machines = Path(stage.dir)
        self.network = network
        self.server = Server(stage.scratch / "nats", network=network)
        self.done: Counter[str] = Counter()
        self.lives: list[Life] = []
        self._spill = str(stage.scratch / "spill") if spill else ""
        self._links: dict[str, Worker] = {}

    def start(self, name: str) -> None:
        """Start a link, and wait until it is connected."""
        options = [self._spill] if name == "out" else []
        if self.network is not None and self.stage.quick:
            options.append("hasty")
        link = Worker(name, self.server.url, self.machines / name, *options, module="tests.live.link_workers")
        self._links[name] = link
        if name == "out":
            until(lambda: self._listens(link), LIMIT, "the link out has joined")
            self.lives.append(Life(time.monotonic(), inf))
        while link.hear(LIMIT)["is"] != "connected":
            pass

    def _listens(self, link: Worker) -> bool:
        peers = zbus.peers(dir=self.machines / "out")
        return any((peer.pid, peer.overflow) == (link.pid, "block") for peer in peers)

    def _kill(self, name: str) -> None:
        if name == "out":
            self.lives[-1] = self.lives[-1]._replace(killed=time.monotonic())
        self._links[name].kill()

    def end(self) -> None:
        """Kill what runs."""
        for link in self._links.values():
            link.kill()
        self.server.kill()

    def server_killed(self) -> None:
        self.server.kill()
        self._pause(2.0)
        self.server.start()

    def server_stopped(self, seconds: float = 0.0) -> None:
        self.server.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._pause(3.0)
        self.server.send_signal(signal.SIGCONT)

    def network_cut(self, seconds: float = 0.0) -> None:
        """Cut the server off for at least so long, and until both links have noticed; then see them back."""
        assert self.network is not None
        begin = time.monotonic()
        self.network.cut()
        until(lambda: self._connected() == [False, False], LIMIT, "both links notice")
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        self.network.mend()
        until(lambda: self._connected() == [True, True], LIMIT, "both links are connected again")

    def network_cut_for_a_moment(self) -> None:
        assert self.network is not None
        self.network.cut()
        self._pause(5.0)
        self.network.mend()

    def link_out_killed(self) -> None:
        self._again("out")

    def link_in_killed(self) -> None:
        self._again("into")

    def link_out_killed_while_the_server_is_away(self) -> None:
        self.server.kill()
        self._pause(1.0)
        self._kill("out")
        self.server.start()
        self.start("out")

    def _again(self, name: str) -> None:
        self._kill(name)
        self._pause(0.5)
        self.start(name)

    def _connected(self) -> list[bool]:
        """Return which links show on the roster that they are connected."""
        return [
            peer.numbers.link.server != ""
            for name, link in self._links.items()
            for peer in zbus.peers(dir=self.machines / name)
            if peer.pid == link.pid and peer.numbers is not None and peer.numbers.link is not None
        ]

    def _pause(self, most: float) -> None:
        time.sleep(self.stage.random.uniform(0.0, min(most, self.stage.size(10, 1))))

    def act(self, what: Callable[..., None], *arguments: Any) -> None:
        """Do something to them."""
        self.done[what.__name__.replace("_", " ")] += 1
        what(*arguments)
