"""Processes with a link, for tests that kill them."""

from __future__ import annotations

import asyncio
import json
import sys

from zbus.links import consumer, inbound, jetstream, outbound
from zbus.links.nats import Link


async def _report(link: Link) -> None:
    connected = False
    while True:
        if connected != bool(link.numbers.server):
            connected = not connected
            print(json.dumps({"is": "connected" if connected else "down"}), flush=True)
        await asyncio.sleep(0.01)


async def _run(link: Link) -> None:
    async with link:
        report = asyncio.create_task(_report(link))
        await link.run()
        report.cancel()


def _hurry(*options: str) -> None:
    """Give a server up that says nothing for some two seconds, if `hasty` is among the options."""
    if "hasty" in options:
        outbound._ACK_SECONDS, consumer._HEARTBEAT_SECONDS, inbound._SILENT_SECONDS = 1.5, 1, 2.5
        jetstream._API_SECONDS = 2.0


def out(url: str, directory: str, spill: str = "", *options: str) -> None:
    """Carry out; while the server is down, all that comes goes to the `spill` file if one is named."""
    _hurry(*options)
    asyncio.run(
        _run(
            Link(
                url,
                out=["orders"],
                dir=directory,
                when_down="spill" if spill else "block",
                spill=(spill, 10**8) if spill else None,
            )
        )
    )


def into(url: str, directory: str, *options: str) -> None:
    """Carry in."""
    _hurry(*options)
    asyncio.run(_run(Link(url, into=["orders"], dir=directory, name="killed")))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
