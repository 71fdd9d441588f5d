"""The dashboard: shows every event about orders and keeps count. The other programs do not know it."""

from __future__ import annotations

import signal
from collections import Counter

import zbus


def main() -> None:
    counts: Counter[str] = Counter()
    # The default, `overflow="drop"`: a slow dashboard misses events, and holds nobody up.
    with zbus.subscribe("orders.**") as events:
        signal.signal(signal.SIGTERM, lambda *_: events.close())
        signal.signal(signal.SIGINT, lambda *_: events.close())
        print("dashboard: watching orders.**", flush=True)
        for evt in events:
            # The events of one publisher arrive in order. Orders and results have two publishers, so a result
            # may arrive before its order.
            counts[evt.kind] += 1
            print(f"dashboard: {evt.path} {evt.kind} {evt.data}", flush=True)
        print(f"dashboard: {dict(sorted(counts.items()))}, {events.lost} missed", flush=True)


if __name__ == "__main__":
    main()
