"""The worker: checks every order and publishes the result.

Run one. There are no queue groups: a second worker would process every order a second time.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

import zbus


@dataclass
class Order:
    item: str
    price: float


def main() -> None:
    with zbus.Bus() as bus:

        def reject(mismatch: zbus.Mismatch) -> None:
            """Answer an order whose data is not an `Order`. The loop below does not see it."""
            bus.send("orders", "order.rejected", mismatch.event.path, {"reason": mismatch.reason})

        # An order must not be lost, so a full queue makes the web API wait.
        orders = bus.subscribe("orders", "order.created", overflow="block", type=Order, on_error=reject)
        # On SIGTERM or Ctrl-C take no new orders, finish those that have arrived, and leave the loop.
        signal.signal(signal.SIGTERM, lambda *_: orders.close())
        signal.signal(signal.SIGINT, lambda *_: orders.close())
        print("worker: waiting for orders", flush=True)
        for evt in orders:
            total = round(evt.data.price * 1.19, 2)
            bus.send("orders", "order.accepted", evt.path, {"item": evt.data.item, "total": total})


if __name__ == "__main__":
    main()
