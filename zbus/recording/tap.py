"""A subscription that hands out frames, many at a time and undecoded, for a recorder at full speed."""

from __future__ import annotations

from typing import Any

import zmq
from zmq.backend import zmq_poll

from ..bus import Bus
from ..options import Overflow, SubscriptionOptions
from ..protocol.undecoded import Item
from ..receiving.frames import FrameChannel
from ..runtime.threads import sleep

__all__ = ["Tap", "TapBus"]

_MOST_FRAMES = 512
_MOST_BYTES = 4 * 1024 * 1024
# Once a frame has come, others have time to come too. A wake-up for each would cost more than reading them,
# and publishers would be short of that CPU.
_GATHER_SECONDS = 0.001


class Tap(FrameChannel):
    """The channel of a recorder."""

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
        """Return what is there; `None` if there will be nothing. Hold the lock."""
        frames, ended = self._frames(_MOST_FRAMES, _MOST_BYTES)
        items = self._read(frames)
        return None if ended and not items else items


class TapBus(Bus):
    """A bus that can be tapped."""

    def tap(self, system: str, kind: str | None, overflow: Overflow) -> Tap:
        """Subscribe as `Bus.subscribe` does, with the same errors."""
        request = self._node.check_subscription(system, kind, SubscriptionOptions(overflow))
        return self._node.join(request, Tap, self)
