"""Which subscribers block a publisher: named in the `Timeout` of a `send` or a `flush`.

This is looked up only when a timeout is over, so it costs sends nothing. The kernel knows how many bytes of a
connection the peer has not read. libzmq writes as long as it can, so a connection that takes no more belongs
to a full subscriber. If there is none, because room was made just now or the kernel does not tell, a
subscriber that has not read everything is the likely one; failing that, it may be any of them.
"""

from __future__ import annotations

import _socket as socket  # gevent's would make a hub for every thread that comes by
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Timeout
from ..roster.file_names import Entry, parse_entry
from ..roster.process_info import UNKNOWN, ProcessInfo, read_process_info, visible
from ..runtime.descriptors import socket_id, unix_sockets, unread_bytes
from ..runtime.process_state import peer_process, process_state
from .flush import flush_timeout_error

__all__ = [
    "BUSY",
    "JOINING",
    "NO_ROOM",
    "LinkSnapshot",
    "describe_subscriber",
    "name_blockers",
    "send_timeout_error",
]

BUSY = "another thread is sending"
JOINING = "a subscriber has not finished joining"
NO_ROOM = "a 'block' subscriber made no room"
"""What may be in the way of a send."""

_BLOCK = "'block' subscriber"
# How many are named in a message (its details list all), and how much of a name or pattern.
_NAMED = 3
_LETTERS = 60
# A unix socket takes more only while at most a quarter of its buffer is in use (`unix_writable` in Linux).
_FULL_SHARE = 4


class LinkSnapshot(NamedTuple):
    """What a publisher is linked to at one moment.

    Attributes:
        directory: the directory of the bus.
        every: the entries of all ingresses.
        awaited: the entries of those that have not finished joining.
    """

    directory: Path
    every: list[Entry]
    awaited: list[Entry]


class _Blocker(NamedTuple):
    """What is known of one ingress and of the connection to it."""

    id: str
    about: ProcessInfo
    unread: int
    full: bool
    stopped: bool | None  # `None` if its process cannot be seen
    here: bool  # whether it belongs to this process


def send_timeout_error(obstacle: str, seconds: float, links: LinkSnapshot, system: str, kind: str) -> Timeout:
    """Return the error of a send that met `obstacle` for so many seconds. It names who is in the way."""
    if obstacle == JOINING:
        found = _inspect(links.directory, links.awaited)
        who = _sentence(found, "subscriber", "has not finished joining")
    else:
        blocking = [entry for entry in links.every if entry.overflow == "block"]
        every = _inspect(links.directory, blocking)
        found = full = [blocker for blocker in every if blocker.full]
        who = _sentence(found, _BLOCK, "made no room")
        if obstacle == NO_ROOM and not full:
            found = [blocker for blocker in every if blocker.unread] or every
            who = _sentence(found, _BLOCK, "made no room", of=len(every))
        elif obstacle == BUSY and full:
            who = f"{obstacle}, and {who}"  # that is what the other thread waits for
    return Timeout(
        f"{who or obstacle} within {seconds:g} s, so the event went to nobody: send it again, or see with"
        " 'zbus ls' who is on the bus",
        system=system,
        kind=kind,
        subscribers=[_facts(blocker) for blocker in found],
    )


def name_blockers(looks: Iterator[float], links: Callable[[], LinkSnapshot]) -> Iterator[float]:
    """Yield what a flush yields; if it times out, name the subscribers that have not read everything."""
    try:
        yield from looks
    except Timeout as error:
        now = links()
        found = [blocker for blocker in _inspect(now.directory, now.every) if blocker.unread]
        who = _sentence(found, "subscriber", "has not taken what was sent")
        seconds = error.details["timeout"]
        raise flush_timeout_error(seconds, who, subscribers=[_facts(blocker) for blocker in found]) from None


def describe_subscriber(directory: Path, entry: Entry) -> str:
    """Return a text for people about an ingress: its id, and what is known of its process."""
    return _whose(_inspect(directory, [entry])[0])


def _inspect(directory: Path, entries: Iterable[Entry]) -> list[_Blocker]:
    """Return the state of some ingresses: first those that surely block their publisher, then likely ones."""
    by_id = {entry.id: entry for entry in entries}
    state = dict.fromkeys(by_id, (0, False, 0))
    for number, _, peer in unix_sockets() if by_id else ():
        if (ident := socket_id(peer)) in by_id:
            state[ident] = max(state[ident], _connection(number))
    found = []
    for ident, (unread, full, pid) in state.items():
        here = pid == os.getpid()
        seen = process_state(pid) if pid and not here else None
        stopped = seen.stopped if seen else False if here else None
        found.append(_Blocker(ident, _about(directory, by_id[ident]), unread, full, stopped, here))
    return sorted(found, key=lambda blocker: (not blocker.full, not blocker.stopped, -blocker.unread))


def _connection(number: int) -> tuple[int, bool, int]:
    """Return how many bytes the peer has not read, whether the connection is full, and the peer's process."""
    unread = unread_bytes(number)
    with suppress(OSError):  # closed meanwhile, by libzmq
        held = socket.socket(fileno=number)
        try:
            full = _FULL_SHARE * unread > held.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            return unread, full, peer_process(held)
        finally:
            held.detach()
    return unread, False, 0


def _about(directory: Path, entry: Entry) -> ProcessInfo:
    with suppress(OSError):
        return read_process_info(directory / entry.name)
    with suppress(OSError):  # meanwhile it has another epoch, or is gone
        for other in filter(None, map(parse_entry, os.listdir(directory))):
            if other.id == entry.id:
                return read_process_info(directory / other.name)
    return ProcessInfo(UNKNOWN, 0, UNKNOWN, UNKNOWN, "", [], [], b"")


def _facts(blocker: _Blocker) -> dict[str, Any]:
    about = blocker.about
    return {
        "id": blocker.id,
        "process": about.process,
        "pid": about.pid,
        "user": about.user,
        "patterns": [(system, kind) for system, kind, _ in about.patterns],
        "stopped": blocker.stopped,
    }


def _sentence(found: list[_Blocker], noun: str, verb: str, *, of: int = 0) -> str:
    """Return a sentence about what these subscribers did, or what one `of` so many may have done."""
    if not found:
        return ""
    names = [_whose(blocker) for blocker in found[:_NAMED]]
    names += [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    every = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if of > 1:
        return f"one of {of} {noun}s, perhaps {' or '.join(every.rsplit(' and ', 1))}, {verb}"
    if len(found) == 1:
        return f"{noun} {every} {verb}"
    return f"{len(found)} {noun}s, {every}, {verb.replace('has ', 'have ', 1)}"


def _whose(blocker: _Blocker) -> str:
    about = blocker.about
    patterns = [_cut(f"{system} {kind}".removesuffix(" *")) for system, kind, _ in about.patterns[:_NAMED]]
    more = len(about.patterns) - len(patterns)
    facts = [
        _cut(about.process),
        f"process {about.pid or UNKNOWN}",
        "stopped" if blocker.stopped else "",
        "which is this one" if blocker.here else "",
        f"user {about.user}" if about.user != UNKNOWN else "",
        *patterns,
        f"{more} more patterns" if more else "",
    ]
    return f"{blocker.id} ({', '.join(filter(None, facts))})"


def _cut(text: str) -> str:
    return visible(text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…")
