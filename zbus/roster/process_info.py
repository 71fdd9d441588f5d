"""What a process says about itself in an entry or a member file.

Any program, in any language, may have written such a file, or may remove it. So each field may be missing or
malformed: it is then unknown, and the others count (R8, R51). The user is the owner of the file.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, get_args

import orjson

from ..errors import printable
from ..options import Overflow
from ..protocol.patterns import plain
from .file_access import ENTRY_BYTES, read_regular

__all__ = [
    "UNKNOWN",
    "Pattern",
    "ProcessInfo",
    "own_process_info",
    "read_process_info",
    "user_name",
    "visible",
]

UNKNOWN = "?"
_PID_MAX = 2**31 - 1
_TRIES = 3
_NAME_CHARS = 255
_ID = re.compile(r"[0-9a-f]{8,32}")
_ORIGIN = re.compile(r"[0-9a-f]{8,16}")


class Pattern(NamedTuple):
    """What one channel listens to.

    Attributes:
        system, kind: its patterns; kind is `*` if there is none.
        overflow: `drop`, `block` or `latest`; empty if the file does not say.
    """

    system: str
    kind: str
    overflow: str


class ProcessInfo(NamedTuple):
    """The description in one file.

    Attributes:
        process: name of the program.
        pid: its process id, as the process itself sees it; 0 if unknown.
        language: for example `python`.
        user: name of the user who owns the file, or the number if there is no name.
        member: id of the process's member file; empty if unknown.
        patterns: what its channels listen to.
        origins: those of its publisher, the latest last.
        head: the bytes before the JSON text.
        channels: how many channels it has; `patterns` may show fewer. 0 if unknown.
    """

    process: str
    pid: int
    language: str
    user: str
    member: str
    patterns: list[Pattern]
    origins: list[str]
    head: bytes
    channels: int = 0


def own_process_info() -> dict[str, Any]:
    """Return what this process says about itself."""
    return {"process": _program(), "pid": os.getpid(), "language": "python"}


def _program() -> str:
    """Return the name of this program. A program that embeds Python may have put anything into `sys.argv`."""
    name = ""
    with suppress(Exception):
        name = plain(os.path.basename(os.fsdecode(sys.argv[0])))
    return printable(name or os.path.basename(sys.executable or "python"))[:_NAME_CHARS]


def read_process_info(
    path: str | os.PathLike[str], head_bytes: int = 0, largest: int = ENTRY_BYTES
) -> ProcessInfo:
    """Return what the file at `path` says. Its JSON text begins after `head_bytes`, and a NUL ends it.

    Whatever cannot be read or parsed is unknown, and so is everything if it has more than `largest` bytes.

    Raises:
        OSError: the file is gone.
    """
    user = user_name(os.lstat(path).st_uid)
    raw = b""
    for _ in range(_TRIES):
        with suppress(OSError, ValueError):  # not ours to read, no regular file, or too large
            raw = read_regular(path, largest)
        with suppress(ValueError):
            info = orjson.loads(raw[head_bytes:].partition(b"\0")[0])
            return _parse(info if isinstance(info, dict) else {}, user, raw[:head_bytes])
        # Not valid JSON: perhaps its owner is rewriting it in place.
    return _parse({}, user, raw[:head_bytes])


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name.encode(errors="backslashreplace").decode()
    except (KeyError, OSError):
        return str(uid)


def visible(text: str) -> str:
    """Return `text` with control characters as escapes: anybody may have put them into a name."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _parse(info: dict[str, Any], user: str, head: bytes) -> ProcessInfo:
    pid, member, channels = info.get("pid"), info.get("member"), info.get("channels")
    origins = _list(info.get("origins"))
    return ProcessInfo(
        process=_name(info.get("process")),
        pid=pid if type(pid) is int and 0 < pid <= _PID_MAX else 0,
        language=_name(info.get("language")),
        user=user,
        member=member if isinstance(member, str) and _ID.fullmatch(member) else "",
        patterns=[*_patterns(info.get("patterns"))],
        origins=[origin for origin in origins if isinstance(origin, str) and _ORIGIN.fullmatch(origin)],
        head=head,
        channels=channels if type(channels) is int and channels > 0 else 0,
    )


def _name(value: object) -> str:
    return value if isinstance(value, str) and value else UNKNOWN


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _patterns(value: object) -> Iterator[Pattern]:
    for pattern in _list(value):
        system, kind, overflow = [*_list(pattern), "", "", ""][:3]
        if isinstance(system, str) and isinstance(kind, str) and system and kind:
            yield Pattern(system, kind, overflow if overflow in get_args(Overflow) else "")
