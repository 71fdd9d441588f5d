"""A detector that takes 0.2 s for a frame. The camera sends six in that time: most frames are superseded."""

from __future__ import annotations

import signal
import time

import zbus

DETECT_SECONDS = 0.2


def brightness(picture: bytes) -> float:
    """Stand in for a slow model."""
    time.sleep(DETECT_SECONDS)
    return sum(picture) / len(picture)


def main() -> None:
    # With `latest` the channel keeps only the newest event of each (system, kind, path). Each camera has a
    # path of its own, so the detector gets the newest frame of each camera.
    with zbus.subscribe("cameras", "frame", overflow="latest") as frames:
        signal.signal(signal.SIGTERM, lambda *_: frames.close())
        signal.signal(signal.SIGINT, lambda *_: frames.close())
        print("detector: waiting for frames", flush=True)
        channel = frames.channel()
        processed = 0
        for evt in channel:
            processed += 1
            result = brightness(evt.data)
            # `evt.seq` counts the events of one publisher and topic: here, the frames of one camera. A frame
            # is hardly older than its detection takes, since newer ones have replaced all that waited longer.
            age = time.time() - (evt.time or 0)
            print(
                f"{evt.path} frame {evt.seq}: {result:.0f}, {age:.2f} s old, {channel.superseded} superseded",
                flush=True,
            )
        print(f"detector: {processed} processed, {channel.superseded} superseded, {channel.lost} lost")


if __name__ == "__main__":
    main()
