"""What has come that will ever come, on a machine that is busy too.

From a send to a receive an event goes through threads of both processes. Whoever hands it on makes the next
one runnable, so as long as something is on its way some thread does not sleep. A timeout alone says nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable

import zbus

from .process import thread_states

__all__ = ["fill", "fill_async", "forwarded", "quiet", "read_all"]

_LOOKS = 3
_LOOK_SECONDS = 0.005
_AT_REST = "STt"  # asleep, or stopped
_FORWARDING = "zbus-", "ZMQbg"


def quiet(*others: int) -> bool:
    """Return whether each thread of this process but the caller's, and of `others`, has nothing to do."""
    for _ in range(_LOOKS):
        time.sleep(_LOOK_SECONDS)  # for those that wait for the interpreter
        if not all(_at_rest(pid, "") for pid in (os.getpid(), *others)):
            return False
    return True


def forwarded(pid: int) -> bool:
    """Return whether all that has come to a process is in its channels: forwarders and I/O threads sleep."""
    for _ in range(_LOOKS):
        time.sleep(_LOOK_SECONDS)
        if not _at_rest(pid, *_FORWARDING):
            return False
    return True


def _at_rest(pid: int, *names: str) -> bool:
    """Return whether all threads of a process whose name begins so sleep, or are the caller's."""
    return all(
        state in _AT_REST or number == threading.get_native_id()
        for number, name, state in thread_states(pid)
        if name.lstrip("0123456789/").startswith(names)
    )


def fill(send: Callable[[int], object], *others: int) -> int:
    """Call `send` with 1, 2, 3 and so on until nobody has room for more; return how many were accepted."""
    sent = 0
    while True:
        try:
            send(sent + 1)
            sent += 1
        except zbus.Timeout as error:
            if _is_full(error, *others):
                return sent


async def fill_async(send: Callable[[int], Awaitable[object]]) -> int:
    """Do the same with a coroutine."""
    sent = 0
    while True:
        try:
            await send(sent + 1)
            sent += 1
        except zbus.Timeout as error:
            if _is_full(error):
                return sent


def _is_full(error: zbus.Timeout, *others: int) -> bool:
    return "joining" not in error.message and quiet(*others)  # a join goes on only while somebody sends


def read_all(sub: zbus.Subscription, *others: int) -> list[zbus.Event]:
    """Receive everything that is there or on its way, sent by this process or `others`."""
    found: list[zbus.Event] = []
    while True:
        try:
            evt, ok = sub.channel().receive(timeout=0.05)
        except zbus.Timeout:
            if quiet(*others):
                return found
            continue
        assert ok
        assert evt is not None
        found.append(evt)
