"""`BusBase`: what `zbus.Bus` and `zbus.aio.Bus` share, which is a handle on a node."""

from __future__ import annotations

from typing import Generic

from ..errors import printable
from ..runtime.lifecycle import close_in_background
from ..runtime.uncopyable import Uncopyable
from .node import Node, SendResult

__all__ = ["BusBase"]


class BusBase(Uncopyable, Generic[SendResult]):
    """A handle on a node. The node is closed once nothing refers to the handle."""

    _instead = "share it as it is, and have another process open its own"

    def __init__(self, node: Node[SendResult]) -> None:
        self._node: Node[SendResult] = node

    @property
    def name(self) -> str:
        """The name of the bus."""
        return self._node.name

    @property
    def capacity(self) -> int:
        """How many events a channel can queue, unless its subscription says otherwise."""
        return self._node.options.capacity

    @property
    def capacity_bytes(self) -> int:
        """How many bytes of events a channel can queue, unless its subscription says otherwise."""
        return self._node.options.capacity_bytes

    @property
    def closed(self) -> bool:
        """Whether the bus is closed, or belongs to the parent of this forked process."""
        return bool(self._node.closed)

    def __repr__(self) -> str:
        where = printable(str(self._node.path))
        return f"<Bus {self.name!r} at {where}{', closed' if self.closed else ''}>"

    def __del__(self) -> None:
        node = vars(self).get("_node")  # missing if the bus could not be opened
        if node is not None and not node.closed and not node.inherited:
            close_in_background(node.close)
