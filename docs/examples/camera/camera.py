"""A camera: sends thirty frames a second, whether anybody watches or not."""

from __future__ import annotations

import signal
import time

import zbus

WIDTH, HEIGHT, FRAMES_PER_SECOND = 640, 480, 30
running = True


def stop(*_: object) -> None:
    global running
    running = False


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with zbus.Bus() as bus:
        number = 0
        while running:
            number += 1
            # One byte a pixel. `bytes` travel as they are, not as JSON.
            picture = bytes([number % 256]) * (WIDTH * HEIGHT)
            bus.send("cameras", "frame", "/cameras/front", picture)
            time.sleep(1 / FRAMES_PER_SECOND)


if __name__ == "__main__":
    main()
