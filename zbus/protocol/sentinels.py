"""Sentinels: the topics by which an ingress tells publishers which of its epochs has reached them.

A publisher reads whatever peers subscribe to, so anything may come. Only a topic of exactly this form counts.
"""

from __future__ import annotations

import re

from .wire import CONTROL

__all__ = ["parse_sentinel", "sentinel"]

_SENTINEL = re.compile(CONTROL + rb"([0-9a-f]{8,32})\.([1-9][0-9]{0,17})")


def sentinel(ident: str, epoch: int) -> bytes:
    """Return the topic by which an ingress tells publishers that its `epoch` has reached them."""
    return CONTROL + f"{ident}.{epoch}".encode()


def parse_sentinel(topic: bytes) -> tuple[str, int] | None:
    """Return the ingress and the epoch that a topic tells; `None` if it is another topic."""
    match = _SENTINEL.fullmatch(topic)
    return None if match is None else (match[1].decode(), int(match[2]))
