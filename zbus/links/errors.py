"""How a connection of a link ends."""

from __future__ import annotations

__all__ = ["Disconnected"]


class Disconnected(Exception):
    """The connection is of no more use; the text says why. The link makes another one."""
