"""A message that is sent once, whatever interrupts: by libzmq's own function instead of pyzmq's.

pyzmq looks for signals before and after libzmq sends, all in one call. When a signal handler raises in there,
nobody can tell whether the frame was sent. So libzmq is called directly, and `list.extend` keeps what it
returns: all in C, where CPython lets no interrupt in. That takes 2 to 3 µs more a frame (measured), so it is
for batches only, which hold what was accepted before.

pyzmq's module links to libzmq, or contains it. Where its function cannot be found, pyzmq sends. Then an
interrupt at the wrong microsecond may lose a batch, which shows as a gap.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import zmq

__all__ = ["Message"]


class Message:
    """One frame for the peers of one socket. Not thread-safe."""

    __slots__ = ("_begun", "_frame", "_results", "_send", "_socket")

    def __init__(self, frame: bytes, send: Callable[..., object]) -> None:
        """Prepare `frame` for the socket whose method `send` is."""
        self._frame = frame
        self._send = send
        self._begun = False  # by pyzmq
        self._results: list[int] = []  # of libzmq: how many bytes it took, or -1
        self._socket = getattr(getattr(send, "__self__", None), "underlying", None)

    @property
    def sent(self) -> bool:
        """Whether libzmq has taken it. No frame is empty."""
        return self._begun or any(result >= 0 for result in self._results)

    def send(self) -> None:
        """Send it unless it is sent; raise `zmq.Again` if there is no room now."""
        function, socket, frame = _zmq_send(), self._socket, self._frame
        if function is None or socket is None:
            self._send_by_pyzmq()
            return
        results = self._results
        while not self.sent:
            results.extend(map(function, (socket,), (frame,), (len(frame),), (zmq.NOBLOCK,)))
            if results[-1] < 0 and (code := ctypes.get_errno()) != errno.EINTR:
                raise zmq.Again(code) if code == errno.EAGAIN else zmq.ZMQError(code)

    def _send_by_pyzmq(self) -> None:
        if not self._begun:
            # CPython lets no interrupt in between a store and the call after it.
            self._begun = True
            try:
                self._send(self._frame, zmq.NOBLOCK)
            except zmq.Again:
                self._begun = False
                raise


@cache
def _zmq_send() -> Any:
    """Return libzmq's function as pyzmq has loaded it, or `None` if it cannot be found.

    It never waits, so it keeps the GIL. Another thread that waits for that would else take it here, and a
    batch would wait for it.
    """
    module = sys.modules.get("zmq.backend.cython._zmq")
    try:
        function: Any = ctypes.PyDLL(getattr(module, "__file__", ""), use_errno=True).zmq_send
        function.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    except (OSError, AttributeError):
        return None
    return function
