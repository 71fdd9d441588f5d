"""A message that is sent once, whatever interrupts: by libzmq's own functions instead of pyzmq's.

pyzmq looks for signals before and after libzmq sends, all in one call. When a signal handler raises in there,
nobody can tell whether the frame was sent. libzmq can: it empties a message that it takes. Calling it
directly takes 3 µs more a frame (measured), so it is for batches only, which hold what was accepted before.

pyzmq's module links to libzmq, or contains it. Where its functions cannot be found, pyzmq sends. Then an
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

_MESSAGE = ctypes.c_uint64 * 8  # `zmq_msg_t`


class Message:
    """One frame for the peers of one socket. Not thread-safe."""

    def __init__(self, frame: bytes, send: Callable[..., object]) -> None:
        """Prepare `frame` for the socket whose method `send` is."""
        self._frame = frame
        self._send = send
        self._begun = False
        self._libzmq = _libzmq()
        self._socket = getattr(getattr(send, "__self__", None), "underlying", None)
        self._message: Any = None
        if self._libzmq is not None and self._socket is not None:
            message = _MESSAGE()
            if self._libzmq.zmq_msg_init_size(message, len(frame)):
                raise MemoryError
            ctypes.memmove(self._libzmq.zmq_msg_data(message), frame, len(frame))
            self._message = message

    @property
    def sent(self) -> bool:
        """Whether libzmq has taken it. No frame is empty."""
        if self._message is None:
            return self._begun
        return not self._libzmq.zmq_msg_size(self._message)

    def send(self) -> None:
        """Send it unless it is sent; raise `zmq.Again` if there is no room now."""
        if self._message is None:
            self._send_by_pyzmq()
            return
        while not self._begun or not self.sent:
            self._begun = True
            if self._libzmq.zmq_msg_send(self._message, self._socket, zmq.NOBLOCK) < 0:
                code = ctypes.get_errno()
                if code == errno.EAGAIN:
                    raise zmq.Again(code)
                if code != errno.EINTR:
                    raise zmq.ZMQError(code)

    def _send_by_pyzmq(self) -> None:
        if not self._begun:
            # CPython lets no interrupt in between a store and the call after it.
            self._begun = True
            try:
                self._send(self._frame, zmq.NOBLOCK)
            except zmq.Again:
                self._begun = False
                raise

    def close(self) -> None:
        """Free it; it will not be sent."""
        if self._message is not None:
            self._libzmq.zmq_msg_close(self._message)


@cache
def _libzmq() -> Any:
    """Return libzmq as pyzmq has loaded it, or `None` if its functions cannot be found."""
    module = sys.modules.get("zmq.backend.cython._zmq")
    try:
        library: Any = ctypes.CDLL(getattr(module, "__file__", ""), use_errno=True)
        library.zmq_msg_init_size.argtypes = _MESSAGE, ctypes.c_size_t
        library.zmq_msg_data.argtypes = (_MESSAGE,)
        library.zmq_msg_data.restype = ctypes.c_void_p
        library.zmq_msg_send.argtypes = _MESSAGE, ctypes.c_void_p, ctypes.c_int
        library.zmq_msg_size.argtypes = (_MESSAGE,)
        library.zmq_msg_size.restype = ctypes.c_size_t
        library.zmq_msg_close.argtypes = (_MESSAGE,)
    except (OSError, AttributeError):
        return None
    return library
