"""What a link carries in a second, compared with a program that uses nats-py alone.

Both do the same for each message, with the same server; see `link_peers.py`. A ratio is the median over
pairs of runs right after each other, because the speed of the machine changes.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import Figures, await_ready, finish, start

sys.path.insert(0, str(Path(__file__).parents[2]))

__all__ = ["LINK", "measure_link"]

LINK = ("out", "in", "core-out", "core-in")
TARGETS = {"out": 0.7, "in": 0.7, "core-out": 0.8, "core-in": 0.8}
STREAM, CONSUMER = "zbus", "zbus-bench-1"

Row = dict[str, Any]
Note = Callable[[str], None]


class _Hub:
    """A server, with a new stream in memory for each run."""

    def __init__(self, server: Any, count: int) -> None:
        self._server = server
        self.url: str = server.url
        self.count = count

    def renew(self, core: bool) -> None:
        """Remove what a run left; add a stream again, unless it would take what core NATS carries."""
        from tests.live.nats import add_stream, api

        async def renewed() -> None:
            if (await api(self._server, "STREAM.NAMES"))["streams"]:
                await api(self._server, f"STREAM.DELETE.{STREAM}")
            if not core:
                await add_stream(self._server, storage="memory")

        asyncio.run(renewed())

    def fill(self) -> None:
        """Store what is to be received, and where the link is to begin."""
        from tests.live.nats import api

        async def filled() -> None:
            config = {"durable_name": CONSUMER, "ack_policy": "all", "deliver_policy": "all"}
            request = {"stream_name": STREAM, "config": config}
            await api(self._server, f"CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}", request)
            while (await api(self._server, f"STREAM.INFO.{STREAM}"))["state"]["messages"] <= self.count:
                await asyncio.sleep(0.1)

        finish(start("link_peers.send", self.url, self.count))
        asyncio.run(filled())


def measure_link(what: list[str], rounds: int, events: int, note: Note) -> list[Row]:
    """Return the rows of the cases named."""
    from tests.live.nats import nats_server

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="zb-", dir="/dev/shm") as d, nats_server(Path(d)) as server:
        hub = _Hub(server, events)
        for name in what:
            rows += _compared(name, hub, rounds, note)
    return rows


def _compared(name: str, hub: _Hub, rounds: int, note: Note) -> list[Row]:
    measure = _out if name.endswith("out") else _in
    found: list[tuple[Figures, Figures]] = []
    for number in range(rounds):
        measured = {
            ours: measure(hub, name.startswith("core"), ours)
            for ours in ((False, True) if number % 2 else (True, False))
        }
        found.append((measured[True], measured[False]))
        ratio = found[-1][0]["rate"] / found[-1][1]["rate"]
        cpu = " and ".join(f"{figures['cpu']:.1f}" for figures in found[-1])
        note(f"{name}: {found[-1][0]['rate']:,.0f} events/s, {ratio:.3f} x, CPU {cpu} us")
    ratio = statistics.median(ours["rate"] / base["rate"] for ours, base in found)
    holds = ratio >= TARGETS[name]
    rate = statistics.median(ours["rate"] for ours, _ in found)
    row = {"name": f"link, {name}", "value": rate, "unit": "events/s", "ratio": ratio}
    rows = [row | {"target": f">= {TARGETS[name]:g} x", "holds": holds}]
    for index, who in enumerate(("the link", "nats-py alone")):
        cpu = statistics.median(pair[index]["cpu"] for pair in found)
        row = {"name": f"  CPU of {who}, an event", "value": cpu, "unit": "us", "ratio": None}
        rows.append(row | {"target": "", "holds": True})
    # On a busy machine this says more than the rates.
    rows[1]["ratio"] = statistics.median(base["cpu"] / ours["cpu"] for ours, base in found)
    return rows


def _out(hub: _Hub, core: bool, ours: bool) -> Figures:
    hub.renew(core)
    if not ours:
        return finish(start("link_peers.nats_out", hub.url, hub.count, int(core), 1))
    with _directory() as d:
        link = start("link_peers.link_out", hub.url, d, hub.count, int(core))
        finish(start("zbus_publish", d, hub.count, 0, 1))
        return finish(link)


def _in(hub: _Hub, core: bool, ours: bool) -> Figures:
    hub.renew(core)
    if not core:
        hub.fill()
    if not ours:
        reader = start("link_peers.nats_in", hub.url, hub.count, int(core))
        return _received(hub, core, reader)
    with _directory() as d:
        subscriber = start("zbus_subscribe", d, 0)
        figures = _received(hub, core, start("link_peers.link_in", hub.url, d, hub.count, int(core)))
        finish(subscriber)
        return figures


def _received(hub: _Hub, core: bool, reader: Any) -> Figures:
    await_ready(reader)
    if core:
        finish(start("link_peers.send", hub.url, hub.count))
    return finish(reader)


@contextmanager
def _directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="zb-", dir="/dev/shm") as d:
        yield d
