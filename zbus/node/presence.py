"""What a process has on the roster: its member file, and the socket and entry of each ingress.

Somebody may remove these files, or the whole directory. A process checks for that at each join and once a
second, and creates missing files again, with the same ids and epochs, so that publishers recognize it.
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

# By then every member, which looks once a second, has noticed that the token was removed.
_NOTICE_SECONDS = 1.25
_LISTEN_TIMEOUT = 0.1


class Presence:
    """The files of one node on the roster.

    Attributes:
        roster: the roster.
        member: the member file.
    """

    @map_os_errors("open the bus")
    def __init__(self, dir: str | os.PathLike[str] | None, bus: str, *, listed: bool = True) -> None:
        """Open the roster. If this process is to be `listed`, create a member file, and remove dead files."""
        check_memory()
        self.roster = Roster(dir, bus)
        try:
            if self.roster.token_missing:
                sleep(_NOTICE_SECONDS)  # otherwise they would not see this process, nor would it see them
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
        """Create missing files again, and with `create` also the directory.

        A full `block` ingress whose socket is missing gets a new one in a later call, once there is room.

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
                timeout = 0.0  # for all ingresses together
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
        """Do the same as `restore`, but log an error, once for as long as it stays the same."""
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
