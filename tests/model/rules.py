"""The rules of order of `docs/spec/roster.md`, written so that each can be broken by itself.

What a subscribing process does is a script, one atomic action after the other, so that a rule of order is
the place of an action. What a publisher does has branches; a rule of it is named in `broken`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["PROTOCOL", "Rules"]


@dataclass(frozen=True)
class Rules:
    """How peers behave. The defaults are the protocol.

    `join` is R16 with a forwarder and R28 after the first entry, `leave` is R18, `close` is what a closed
    channel on a shared ingress does besides unsubscribing.
    """

    join: tuple[str, ...] = (
        "subscribe",
        "await barrier",
        "mark",
        "await sentinel",
        "name",
        "entry",
        "token",
        "old entry",
        "unmark",
        "look",
        "rob entries",
        "rob socket",
        "rob token",
        "return",
    )
    close: tuple[str, ...] = ()
    leave: tuple[str, ...] = ("entries", "socket", "token", "end")
    broken: frozenset[str] = frozenset()

    def breaking(self, *names: str) -> Rules:
        """Return these rules but for the ones named."""
        return replace(self, broken=self.broken | set(names))

    def without(self, *actions: str) -> Rules:
        """Return these rules with some actions of a join left out."""
        return replace(self, join=tuple(each for each in self.join if each not in actions))

    def moved(self, action: str, before: str) -> Rules:
        """Return these rules with one action of a join taken just before another."""
        return self.without(action).replaced(before, action, before)

    def replaced(self, action: str, *others: str) -> Rules:
        """Return these rules with others in place of one action of a join."""
        at = self.join.index(action)
        return replace(self, join=(*self.join[:at], *others, *self.join[at + 1 :]))


PROTOCOL = Rules()
