"""Processes with a link, for tests that kill them."""

from __future__ import annotations

import asyncio
import json
import sys

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


def out(url: str, directory: str, spill: str = "") -> None:
    """Carry out, with a spill file that takes all that comes while the server is down."""
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


def into(url: str, directory: str) -> None:
    """Carry in."""
    asyncio.run(_run(Link(url, into=["orders"], dir=directory, name="killed")))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
