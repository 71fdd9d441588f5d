"""Large events that a link sends on take as much of a subscriber's queue as those of this machine (W43)."""

from __future__ import annotations

import zbus
import zbus.aio
from zbus.links.local import LinkBus
from zbus.protocol.relayed import Relayed

from .raw import RawSubscriber

LARGE, LAST = "x" * 1_000_000, "last"


def places(raw: RawSubscriber) -> int:
    """Return how many frames a large event and what follows it have taken, up to a small one."""
    count = 0
    while LAST.encode() not in raw.receive():
        count += 1
    return count


async def test_a_large_event_of_another_machine_takes_as_many_places_as_one_from_here(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    raw = RawSubscriber(zbus_dir, b"orders\0", overflow="block")
    raw.join()
    try:
        async with zbus.aio.Bus(dir=zbus_dir) as sender, LinkBus(dir=zbus_dir) as link:
            for data in (LARGE, LAST):
                await sender.send("orders", "x", "/x", data)
            own = places(raw)
            for number, data in enumerate((LARGE, LAST), 1):
                body = b'"%b"' % data.encode()
                item = Relayed("5f0c9a1b2c3d4e5f", "orders", "x", number, "a" * 16, b"/x", b"", body)
                if (rest := link.relay.send(item)) is not None:
                    await rest
            assert places(raw) == own > 5
    finally:
        raw.close()
