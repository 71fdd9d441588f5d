"""What a link has done so far, for its own user and for the roster."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LinkNumbers"]

_NAMES_KEPT = 100


@dataclass
class LinkNumbers:
    """The numbers of one link.

    Attributes:
        server: where it is connected; empty while it is not.
        sent: events that the other side has taken: that its stream has stored, or with `--core`, that its
            server has got.
        received: events that were sent on locally.
        refused: events that were left out: denied by the policy, malformed, or too large.
        dropped: events that were not carried because the other side was down, or, with `--core`, because this
            bus took too little of what came in.
        repeated: events that came again and were left out.
        waiting: events that the other side has not taken yet, in memory and in the spill file.
        behind: messages that wait in the stream for this link, as of the last one that came.
        reconnects: how often the connection was made again.
        lag: how many seconds the oldest event that is `waiting` in memory has waited.
        problem: what keeps events from being carried now; empty if nothing does.
    """

    server: str = ""
    sent: int = 0
    received: int = 0
    refused: int = 0
    dropped: int = 0
    repeated: int = 0
    waiting: int = 0
    behind: int = 0
    reconnects: int = 0
    lag: float = 0.0
    problem: str = ""
    _named: set[str] = field(default_factory=set, repr=False)

    def refuse(self, events: int, reason: str) -> bool:
        """Count events that are left out; return whether it is the first time for this reason."""
        self.refused += events
        if reason in self._named or len(self._named) >= _NAMES_KEPT:
            return False
        self._named.add(reason)
        return True

    def public(self) -> dict[str, object]:
        """Return the numbers by name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}
