"""A logging handler that sends what a program logs as events.

    logging.getLogger().addHandler(zbus.logging.Handler())

    for evt in zbus.subscribe("logs", "(warning|error|critical)"):
        print(evt.path, evt.data["message"])

Logging must not slow a program down: a record that cannot be sent at once is dropped and counted.
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
from .runtime.lifecycle import process_exiting
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
    """Sends each record as one event. The kind is the level in lower case, the path the logger's name.

    The data is a JSON object with `message`, `level`, `logger`, `time` (seconds since 1970), `process` (its
    id), `thread` (its name), `file` and `line`, and with `exception`, `stack` and `extra` if the record has
    them. With a formatter, `text` is the formatted record. Texts are cut at 16,384 characters. Values that
    JSON cannot carry are sent as their `repr`.

    The handler never raises. The first record opens the bus and may take a second; later ones never wait. A
    record is dropped when a `block` subscriber is full, the policy denies it, the bus is closed or belongs to
    the parent of this forked process, a signal handler logs during a send, or zbus has closed the buses at
    the end of the program. Records of zbus itself, and records logged while the handler sends, are dropped
    as well, since each would cause another.

        logging.getLogger().addHandler(zbus.logging.Handler())

    Attributes:
        dropped: how many records were dropped so far.
    """

    def __init__(
        self, bus: Bus | str | None = None, *, system: str = "logs", level: int | str = logging.NOTSET
    ) -> None:
        """Prepare to send; nothing is opened yet.

        Args:
            bus: a `zbus.Bus`, or the name of a bus to open with the first record, again in each forked
                process; the default bus if `None`.
            system: the system of the events.
            level: records below this level are ignored.

        Raises:
            TypeError: an argument of the wrong type. asyncio programs pass a `zbus.Bus` or a name too, not a
                bus of `zbus.aio`.
            Invalid: a malformed system or bus name, or a directory whose path is too long. Not retryable.
        """
        super().__init__(level)
        self._system, _ = check_sendable(system, "info")
        self._own = DefaultBus(partial(Bus, bus)) if isinstance(bus, str) else None
        if isinstance(bus, str):
            locate(None, bus)  # raises now, rather than have every record dropped
        if bus is not None and self._own is None and not isinstance(bus, Bus):
            raise TypeError(f"bus must be a zbus.Bus, a name or None, not {type(bus).__name__}")
        self._bus = bus if isinstance(bus, Bus) else None
        self._closed = False
        self._used: Bus | None = None
        self._not_before = 0.0
        # Threads that are sending, with their process: a forked child starts with none.
        self._sending: set[tuple[int, int]] = set()
        self.dropped = 0

    def handle(self, record: logging.LogRecord) -> Any:
        """Send a record unless a filter rejects it.

        Takes no lock, unlike other handlers: a thread that logs must not wait for another that sends.
        """
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or drop and count it."""
        sender = os.getpid(), native.get_ident()
        # `+=` is atomic here: CPython switches threads at calls and jumps only.
        if sender in self._sending or self._closed or process_exiting() or _of_zbus(record):
            self.dropped += 1
            return
        self._sending.add(sender)
        try:
            self._send(record)
        except Exception:  # logging never raises, and there is nobody to report to
            self.dropped += 1
        finally:
            self._sending.discard(sender)

    def _send(self, record: logging.LogRecord) -> None:
        kind = re.sub(r"[^\w-]+", "_", record.levelname.lower()) or "level"
        path = _text(record.name).replace("\0", "_") or "root"
        data = self._describe(record)
        bus = self._bus or self._open()
        # The first send may have to connect. Later ones connect to new subscribers without waiting.
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
        """Return the data of the event for a record."""
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
        except Exception:  # for example arguments that do not fit the message
            return _text(f"{_repr(record.msg)} % {_repr(record.args)}")

    def close(self) -> None:
        """Drop all further records, and close the bus if the handler has opened it by name."""
        self._closed = True
        if self._own is not None and self._own.bus is not None:
            self._own.bus.close()
        super().close()


def _of_zbus(record: logging.LogRecord) -> bool:
    return f"{record.name}.".startswith("zbus.")


def _text(text: str, limit: int = _TEXT_CHARS) -> str:
    """Return `text` as UTF-8 can carry it, cut to `limit` characters with a note that it was cut."""
    if len(text) > limit:
        text = f"{text[:limit]} ... ({len(text):,} characters)"
    return text.encode(errors="backslashreplace").decode()


def _json(value: Any) -> Any:
    """Return an extra value as it is if it is short and JSON can carry it, otherwise its `repr`."""
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
