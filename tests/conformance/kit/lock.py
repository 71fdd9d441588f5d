"""One run at a time builds a peer and runs what was built."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from .manifest import Manifest

__all__ = ["alone"]


@contextmanager
def alone(peers: Iterable[Manifest]) -> Iterator[None]:
    """Keep other runs away from what these peers and their variants build, until the context ends.

    It waits for a run that has one of them, and says so. A peer that builds nothing is free for all.
    """
    with ExitStack() as stack:
        for peer in sorted(
            peers, key=lambda peer: peer.language
        ):  # in one order, so that no two runs wait for each other
            if peer.build or peer.variants:
                peer.output.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(f"{peer.output}.lock", "w"))
                _take(lock.fileno(), peer)
        yield


def _take(lock: int, peer: Manifest) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another run, which uses {peer.output}", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
