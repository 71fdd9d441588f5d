"""A channel that hands out frames as they came, many at a time: what the taps of tools build on."""

from __future__ import annotations

from math import inf
from types import TracebackType
from typing import Any, TypeVar

import zmq

from .channel_base import ChannelBase
from .queue import Ended

__all__ = ["FrameChannel"]

Self = TypeVar("Self", bound="FrameChannel")


class FrameChannel(ChannelBase[Any]):
    """A channel of frames. One thread reads it; any thread or signal handler may close it."""

    def _frames(self, most: int, most_bytes: float = inf) -> tuple[list[bytes], bool]:
        """Take the frames that are there, up to a number and a size that only the last may exceed.

        Hold the lock until they are read, too: a mark that another thread accounts for meanwhile would count
        those that were taken and not yet read as lost.

        Returns:
            The frames, and whether there will be no more.
        """
        queue = self._source.queue
        frames: list[bytes] = []
        size = 0
        try:
            while len(frames) < most and size < most_bytes:
                # Looked up each time: it is replaced while large frames are counted, and at the end.
                frame = queue.recv(zmq.NOBLOCK)
                frames.append(frame)
                size += len(frame)
        except zmq.Again:
            pass
        except Ended:
            return frames, True
        return frames, False

    def close(self) -> None:
        """Stop new events; those that have arrived can still be read. Closing twice is fine."""
        self._source.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: TracebackType | None) -> None:
        self.close()
