"""What a full queue does: the overflow policies, one row each.

To add a policy: add its name to `options.Overflow` and a row here; if neither source fits, write another in a
file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..options import Overflow
from ..protocol.decoder import Decoder
from .latest import LatestSource
from .queue import SocketQueue
from .source import FrameSource, Source

__all__ = ["OVERFLOW_POLICIES", "OverflowPolicy"]


class OverflowPolicy(NamedTuple):
    """How the channels of one policy receive.

    Attributes:
        blocking: whether each channel has an ingress of its own, whose forwarder stops while the queue is
            full, so that publishers wait. If not, it shares one, and what finds the queue full is dropped.
        queues_frames: whether the capacity of the subscription is that of its queue of frames. If not, it is
            that of the source, and the queue has the capacity of the bus.
        source: makes the source of a channel from its queue, its decoder, and the capacity of the
            subscription in events and in bytes.
    """

    blocking: bool
    queues_frames: bool
    source: Callable[[SocketQueue, Decoder, int, int], Source]


def _frame_source(queue: SocketQueue, decoder: Decoder, *_: int) -> Source:
    return FrameSource(queue, decoder)


OVERFLOW_POLICIES: dict[Overflow, OverflowPolicy] = {
    "drop": OverflowPolicy(blocking=False, queues_frames=True, source=_frame_source),
    "block": OverflowPolicy(blocking=True, queues_frames=True, source=_frame_source),
    "latest": OverflowPolicy(blocking=False, queues_frames=False, source=LatestSource),
}
