"""The collector: prints what every program on the bus logs, a line for each record."""

from __future__ import annotations

import signal
import time

import zbus


def main() -> None:
    # To collect warnings and errors only: zbus.subscribe("logs", "(warning|error|critical)")
    with zbus.subscribe("logs") as records:
        signal.signal(signal.SIGTERM, lambda *_: records.close())
        signal.signal(signal.SIGINT, lambda *_: records.close())
        print("collector: waiting for log records", flush=True)
        for evt in records:
            clock = time.strftime("%H:%M:%S", time.localtime(evt.data["time"]))
            print(f"{clock} {evt.path}[{evt.data['process']}] {evt.kind}: {evt.data['message']}", flush=True)


if __name__ == "__main__":
    main()
