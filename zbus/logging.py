"""Logging: a handler that sends what a program logs as events.

    logging.getLogger().addHandler(zbus.logging.Handler())

    for evt in zbus.subscribe("logs", "(warning|error|critical)"):
        print(evt.path, evt.data["message"])

Whoever logs must not notice: a record that cannot be sent at once is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import re
import time
from functools import partial
from typing import Any

from .bus import Bus, default
from .errors import Invalid, Unavailable
from .node.default_bus import DefaultBus
from .protocol.wire import check_sendable, encode_data
from .roster.location import locate
from .runtime.lifecycle import ending
from .runtime.locks import native

__all__ = ["Handler"]

_TEXT_CHARS = 16_384
_BRIEF_CHARS = 200
_EXTRAS = 100
_REOPEN_SECONDS = 1.0
_FIRST_SECONDS = 1.0
_OURS = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "asctime", "message", "taskName"}
_formatter = logging.Formatter()


class Handler(logging.Handler):
    """Sends each record as one event: kind is the level in lower case, path the logger's name.

    Data is a JSON object: `message`, `level`, `logger`, `time` (seconds since 1970), `process` (its id),
    `thread` (its name), `file`, `line`, and if there is any, `exception`, `stack` and `extra`. If a formatter
    is set, `text` is what that makes of the record. Texts are cut at 16,384 characters. What JSON cannot
    carry is sent as its `repr`.

    It never raises. The first record opens the bus, and has a second to get to its subscribers; none waits
    after that. It drops what it cannot send at once: if a `block` subscriber is full, the policy denies it,
    the bus is closed or belongs to the parent of this forked process, a signal handler logs amid a send, or
    zbus has closed the program's buses at its end. It also drops what zbus itself logs, and what is logged
    while it sends: that would have no end.

    Attributes:
        dropped: how many records it has dropped so far.
    """

    def __init__(
        self, bus: Bus | str | None = None, *, system: str = "logs", level: int | str = logging.NOTSET
    ) -> None:
        """Prepare to send.

        Args:
            bus: what to send by; the name of a bus to open with the first record, and again in each forked
                process; the default bus, which does so too, if `None`.
            system: of the events.
            level: records below are passed over.

        Raises:
            TypeError: an argument of the wrong type, such as a bus of `zbus.aio`. Its programs, too, give a
                `zbus.Bus` or a name.
            Invalid: a malformed system or name of a bus, or a directory whose path is too long.
        """
        super().__init__(level)
        self._system, _ = check_sendable(system, "info")
        self._own = DefaultBus(partial(Bus, bus)) if isinstance(bus, str) else None
        if isinstance(bus, str):
            locate(None, bus)  # says now what would have every record dropped
        if bus is not None and self._own is None and not isinstance(bus, Bus):
            raise TypeError(f"bus must be a zbus.Bus, a name or None, not {type(bus).__name__}")
        self._bus = bus if isinstance(bus, Bus) else None
        self._closed = False
        self._used: Bus | None = None
        self._not_before = 0.0
        self._sending: set[tuple[int, int]] = (
            set()
        )  # threads, each with its process, for a child has some anew
        self.dropped = 0

    def handle(self, record: logging.LogRecord) -> Any:
        """Send a record that the filters let pass.

        Without the lock that other handlers take: a thread that logs must not wait for another that sends.
        """
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or drop it."""
        sender = os.getpid(), native.get_ident()
        # No other thread gets its turn within `+=`: CPython looks for that at calls and jumps only.
        if sender in self._sending or self._closed or ending() or _of_zbus(record):
            self.dropped += 1
            return
        self._sending.add(sender)
        try:
            self._send(record)
        except Exception:  # who logs did not ask for it, and there is nobody to tell
            self.dropped += 1
        finally:
            self._sending.discard(sender)

    def _send(self, record: logging.LogRecord) -> None:
        kind = re.sub(r"[^\w-]+", "_", record.levelname.lower()) or "level"
        path = _text(record.name).replace("\0", "_") or "root"
        data = self._describe(record)
        bus = self._bus or self._open()
        # Later a subscriber that joins is connected to within the moment that a send without time takes.
        timeout = 0.0 if bus is self._used else _FIRST_SECONDS
        try:
            bus.send(self._system, kind, path, data, timeout=timeout)
        except Invalid as error:
            if "limit" not in error.details:
                raise
            brief = {name: _text(data[name], _BRIEF_CHARS) for name in ("message", "level", "logger")}
            bus.send(self._system, kind, path, brief | {"time": record.created}, timeout=timeout)
        self._used = bus

    def _open(self) -> Bus:
        if time.monotonic() < self._not_before:
            raise Unavailable("the bus could not be opened a moment ago")
        try:
            return (self._own or default).get()
        except BaseException:
            self._not_before = time.monotonic() + _REOPEN_SECONDS
            raise

    def _describe(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what is to be sent of a record."""
        data = {
            "message": self._message(record),
            "level": _text(record.levelname),
            "logger": _text(record.name),
            "time": record.created,
            "process": record.process,
            "thread": _text(str(record.threadName)),
            "file": _text(record.pathname),
            "line": record.lineno,
        }
        if self.formatter:
            data["text"] = _text(self.format(record))
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            data["exception"] = _text((self.formatter or _formatter).formatException(record.exc_info))
        elif record.exc_text:
            data["exception"] = _text(record.exc_text)
        if record.stack_info:
            data["stack"] = _text(record.stack_info)
        extra = [(name, value) for name, value in vars(record).items() if name not in _OURS][:_EXTRAS]
        if extra:
            data["extra"] = {_text(str(name), _BRIEF_CHARS): _json(value) for name, value in extra}
        return data

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return _text(record.getMessage())
        except Exception:  # arguments that do not fit the message, say
            return _text(f"{_repr(record.msg)} % {_repr(record.args)}")

    def close(self) -> None:
        """Drop what comes from now on, and close the bus that it opened by a name."""
        self._closed = True
        if self._own is not None and self._own.bus is not None:
            self._own.bus.close()
        super().close()


def _of_zbus(record: logging.LogRecord) -> bool:
    return f"{record.name}.".startswith("zbus.")


def _text(text: str, limit: int = _TEXT_CHARS) -> str:
    """Return `text` as UTF-8 can carry it, cut to `limit` characters and a word about that."""
    if len(text) > limit:
        text = f"{text[:limit]} ... ({len(text):,} characters)"
    return text.encode(errors="backslashreplace").decode()


def _json(value: Any) -> Any:
    """Return what a record has in addition: as it is, if it is short and JSON can carry it, or its `repr`."""
    if not isinstance(value, bytes | bytearray | memoryview):
        try:
            if len(encode_data(value)) <= _TEXT_CHARS:
                return value
        except Exception:  # not JSON
            pass
    return _text(value if type(value) is str else _repr(value))


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
