"""The one tree of errors, split by what the caller can do about it.

Every failure that zbus reports is an `Error`: it says what is wrong and what to do, and carries the
same three facts for programs. Kinds are those of the original event bus, so that peers in other
languages can name them alike. A wrong *type* is a plain `TypeError`: that is a mistake in the
program, not a condition of the bus.
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
    """Return text that UTF-8 can carry: what cannot be, as in the name of some file, is escaped."""
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode(errors="backslashreplace")
    return raw.decode(errors="backslashreplace")


class Error(Exception):
    """The base of all zbus errors; `str(error)` is the message alone.

    Attributes:
        kind: one of the constants of this module, for example `errors.INVALID`.
        message: what is wrong and what to do about it.
        retryable: whether the same call may succeed later without a change.
        details: facts about the failure for programs, by name; never needed to read the message.
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
    """The call itself is wrong: a name, a pattern, the data, its size, or the policy forbids it.

    Raised before anything is sent. Never retryable.
    """

    kind = INVALID


class Timeout(Error, TimeoutError):
    """Nothing arrived, or a full `block` subscriber did not make room, within the given time.

    Retryable: a `receive` lost nothing, and a `send` that raises it reached nobody.
    """

    kind = TIMEOUT

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, retryable=True, **details)


class Canceled(Error):
    """The bus was closed, or belongs to the parent of this forked process. Not retryable."""

    kind = CANCELED


class PermissionDenied(Error, PermissionError):
    """The bus directory is not safe to use: somebody else's, or open to everybody. Not retryable."""

    kind = PERMISSION_DENIED


class Unavailable(Error):
    """The machine refused what the bus needs: disk full, read-only, out of descriptors, threads or memory.

    Usually retryable once the cause, which the message names, is gone.
    """

    kind = UNAVAILABLE
