"""A subscription that hands out frames, many at a time and undecoded, for a recorder at full speed."""

from __future__ import annotations

from typing import Any

import zmq
from zmq.backend import zmq_poll

from ..bus import Bus
from ..options import Overflow, SubscriptionOptions
from ..protocol.undecoded import Item
from ..receiving.channel_base import ChannelBase
from ..receiving.queue import Ended
from ..runtime.threads import sleep

__all__ = ["Tap", "TapBus"]

_MOST_FRAMES = 512
_MOST_BYTES = 4 * 1024 * 1024
# Once a frame has come, others have time to come too. A wake-up for each would cost more than reading them,
# and publishers would be short of that CPU.
_GATHER_SECONDS = 0.001


class Tap(ChannelBase[Any]):
    """The channel of a recorder. One thread reads it; any thread or signal handler may close it."""

    def __init__(self, *arguments: Any) -> None:
        """Called by `TapBus.tap`."""
        super().__init__(*arguments)
        self._read = self._decoder.undecoded()

    def items(self, seconds: float) -> list[Item] | None:
        """Return what has arrived since, in order; wait for it `seconds` at most.

        Returns:
            Nothing if nothing has come, and `None` once the channel is closed and drained.
        """
        queue, lock = self._source.queue, self._source.lock
        with lock:
            items = self._take()
            if items != [] or not self._source.must_poll():
                return items
            ready = zmq_poll([(queue.handle, zmq.POLLIN)], int(seconds * 1000))
        if ready and not queue.closing:
            sleep(_GATHER_SECONDS)
        with lock:
            return self._take()

    def _take(self) -> list[Item] | None:
        """Return what is there; `None` if there will be nothing. Hold the lock.

        The frames are read under the lock, too: a mark that another thread accounts for meanwhile would count
        those that were taken and not yet read as lost.
        """
        frames, ended = self._frames()
        items = self._read(frames)
        return None if ended and not items else items

    def _frames(self) -> tuple[list[bytes], bool]:
        """Take the frames that are there; return them, and whether there will be no more."""
        queue = self._source.queue
        frames: list[bytes] = []
        size = 0
        try:
            while len(frames) < _MOST_FRAMES and size < _MOST_BYTES:
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


class TapBus(Bus):
    """A bus that can be tapped."""

    def tap(self, system: str, kind: str | None, overflow: Overflow) -> Tap:
        """Subscribe as `Bus.subscribe` does, with the same errors."""
        request = self._node.check_subscription(system, kind, SubscriptionOptions(overflow))
        return self._node.join(request, Tap, self)
