"""Subscribers that never answer. Imports no pytest."""

from __future__ import annotations

import socket
from typing import Any

from zbus.roster.directory import Entry, Roster, new_id

__all__ = ["Silent"]


class Silent:
    """Ingresses that listen and never say a word; the process itself runs."""

    def __init__(self, root: str) -> None:
        self.roster = Roster(root, "default")
        self._sockets: dict[str, socket.socket] = {}

    def add(self, overflow: str = "drop", about: dict[str, Any] | None = None) -> str:
        """Announce one more, whose entry holds `about`; return its id."""
        entry = Entry(new_id(), 1, overflow)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.roster.socket_path(entry.id)))
        listening.listen()
        self.roster.announce(entry, about or {}, entry._replace(epoch=0))
        self._sockets[entry.id] = listening
        return entry.id

    def die(self) -> None:
        """Stop listening, as when the process is killed: the files stay."""
        for listening in self._sockets.values():
            listening.close()

    def leave(self) -> None:
        """Leave the bus, all of them; more may be added afterwards."""
        while self._sockets:
            ident, listening = self._sockets.popitem()
            self.roster.withdraw(ident)
            listening.close()
