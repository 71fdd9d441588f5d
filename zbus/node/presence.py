"""What a process shows on the roster: its member file, and the socket and entry of each ingress.

Others may remove some of it, or the whole directory, and make a new one. A process looks for that at each
join and once a second, and shows all of it again: under the same ids and epochs, so that publishers know it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import Error, printable
from ..receiving.ingress import Ingress
from ..roster.directory import Roster
from ..roster.members import Member, UnlistedMember
from ..roster.process_info import own_process_info
from ..runtime.os_errors import map_os_errors
from ..runtime.reports import report
from ..runtime.resources import check_memory
from ..runtime.threads import sleep

__all__ = ["Presence"]

# In which members notice that the token was removed: they look once a second.
_NOTICE_SECONDS = 1.25
_LISTEN_TIMEOUT = 0.1


class Presence:
    """One process on one roster.

    Attributes:
        roster: the roster.
        member: the member file.
    """

    @map_os_errors("open the bus")
    def __init__(self, dir: str | os.PathLike[str] | None, bus: str, *, listed: bool = True) -> None:
        """Open the roster and, to be `seen`, show a member on it, and clean up for a moment; see `Roster`."""
        check_memory()
        self.roster = Roster(dir, bus)
        try:
            if self.roster.token_missing:
                sleep(_NOTICE_SECONDS)  # else they would not know of this one, nor it of them
            self.member = Member(self.roster, own_process_info()) if listed else UnlistedMember()
            try:
                self.roster.reap() if listed else None
            except BaseException:
                self.member.close()
                raise
        except BaseException:
            self.roster.close()
            raise
        self._generation = self.roster.generation
        self._reported = ""

    def restore(
        self,
        ingresses: Iterable[Ingress],
        describe: Callable[[Ingress], dict[str, Any]],
        *,
        create: bool,
    ) -> None:
        """Show again what is no longer there; `create` the directory if it is missing.

        A full `block` ingress whose socket is gone gets a new one only once there is room, and a later call.

        Raises:
            PermissionDenied, Unavailable: the directory cannot be used.
        """
        roster = self.roster
        if not roster.current():
            if not create and not os.path.exists(roster.path):
                return
            roster.reopen()
        generation = roster.generation
        missing = [ingress for ingress in ingresses if not ingress.listed()]
        if generation == self._generation and not missing and self.member.listed():
            self._reported = ""
            return
        self.member.restore(roster)
        timeout, full = _LISTEN_TIMEOUT, 0
        for ingress in missing:
            if not ingress.restore(describe(ingress), timeout):
                timeout = 0.0  # for all of them together
                full += 1
        roster.touch()
        roster.notify_previous()
        self._generation = generation
        self._reported = self._reported if full else ""
        later = f", but for {full} full 'block' channels: theirs follow once there is room" if full else ""
        where = printable(str(roster.path))
        self._report_once(
            f"files of this process were missing from {where}: it has created them again{later}"
        )

    def restore_or_report(
        self, ingresses: Iterable[Ingress], describe: Callable[[Ingress], dict[str, Any]]
    ) -> None:
        """Do what `restore` does, in the background: an error is logged, once while it stays."""
        try:
            self.restore(ingresses, describe, create=False)
        except Error as error:
            self._report_once(
                f"files of this process are missing, and it cannot create them again: {error.message}"
            )

    def _report_once(self, message: str) -> None:
        if message != self._reported:
            report("%s", message)
        self._reported = message
