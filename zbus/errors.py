"""All errors of zbus, split by what the caller can do about them.

Every failure is an `Error`. Its message says what is wrong and what to do; `kind`, `retryable` and `details`
are for programs. The kinds are those of the original event bus, so that peers in other languages use the same
names. An argument of the wrong type raises a plain `TypeError`: that is a bug in the program, not a condition
of the bus.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CANCELED",
    "INVALID",
    "PERMISSION_DENIED",
    "TIMEOUT",
    "UNAVAILABLE",
    "Canceled",
    "Error",
    "Invalid",
    "PermissionDenied",
    "Timeout",
    "Unavailable",
    "printable",
]

CANCELED = "Canceled"
INVALID = "Invalid"
PERMISSION_DENIED = "PermissionDenied"
TIMEOUT = "Timeout"
UNAVAILABLE = "Unavailable"


def printable(text: str) -> str:
    """Return `text` with everything that UTF-8 cannot carry, as some file names contain, as escapes."""
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode(errors="backslashreplace")
    return raw.decode(errors="backslashreplace")


class Error(Exception):
    """The base class of all zbus errors. `str(error)` is the message.

    Attributes:
        kind: which error it is: a constant of this module such as `errors.INVALID`.
        message: what is wrong and what to do about it.
        retryable: whether the same call may succeed later.
        details: facts about the failure, by name, for programs. The message is complete without them.
    """

    kind: ClassVar[str]
    retryable: bool

    def __init__(self, message: str, *, retryable: bool = False, **details: Any) -> None:
        message = printable(message)
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        self.details = details


class Invalid(Error, ValueError):
    """The call is wrong: a malformed name or pattern, data that cannot be sent, or the policy denies it.

    Raised before anything is sent. Never retryable.
    """

    kind = INVALID


class Timeout(Error, TimeoutError):
    """Time ran out: no event arrived, or a full `block` subscriber made no room.

    Always retryable: a `receive` that timed out lost nothing, and a `send` that timed out reached nobody.
    """

    kind = TIMEOUT

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, retryable=True, **details)


class Canceled(Error):
    """The bus is closed, or belongs to the parent of this forked process. Not retryable."""

    kind = CANCELED


class PermissionDenied(Error, PermissionError):
    """The bus directory is not safe to use: it belongs to another user or is open to everybody.

    Not retryable: the message says how to set the directory up.
    """

    kind = PERMISSION_DENIED


class Unavailable(Error):
    """The operating system refused something: disk full or read-only, no descriptors, threads or memory.

    The message names the cause. `retryable` says whether the same call may succeed once that is gone.
    """

    kind = UNAVAILABLE
