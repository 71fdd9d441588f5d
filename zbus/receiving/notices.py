"""Notices and twins: what publishers tell a process beside events, and the thread that listens for it.

libzmq moves frames through this process in C. Nobody sees how large they are until the reader takes them,
which may be never. So publishers send a notice ahead of large frames. They also send a twin after each mark
(see `retained`). The thread sleeps in libzmq until one arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import zmq

from ..protocol.marks import Mark, decode_twin
from ..protocol.wire import NOTICE, TWIN, decode_notice
from ..runtime.threads import sleep, start

__all__ = ["AnnouncedBytes", "NoticeListener"]

AnnouncedBytes = dict[tuple[str, str], int]
"""How many bytes of large frames are announced for each (system, kind)."""

_PAUSE_SECONDS = 0.002  # after each notice, so that a fast stream costs little


class NoticeListener:
    """The thread that receives the notices and twins of one ingress."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        back: str,
        on_notice: Callable[[AnnouncedBytes], float],
        on_marks: Callable[[list[Mark]], None] | None,
    ) -> None:
        """Listen at `back`, where the channels are.

        `on_notice` is called with what was announced. It returns the seconds after which to call it again in
        any case, or 0. `on_marks` is called with the marks that came as twins; `None` to get none.

        Raises:
            Unavailable: no thread can be started.
        """
        socket = context.socket(zmq.SUB)
        socket.linger = 0
        socket.sndhwm = 0
        socket.rcvhwm = 0  # a full one could hold a forwarder that blocks
        socket.setsockopt(zmq.SUBSCRIBE, NOTICE)
        if on_marks is not None:
            socket.setsockopt(zmq.SUBSCRIBE, TWIN)
        socket.connect(back)
        try:
            self._thread = start(f"zbus-{name}-notices", _listen, socket, on_notice, on_marks)
        except BaseException:
            socket.close()
            raise

    def join(self, timeout: float) -> None:
        """Wait for the thread, at most `timeout` seconds. An empty notice ends it."""
        self._thread.join(timeout)


def _listen(
    socket: zmq.Socket[bytes],
    on_notice: Callable[[AnnouncedBytes], float],
    on_marks: Callable[[list[Mark]], None] | None,
) -> None:
    topics: Counter[tuple[str, str]] = Counter()
    marks: list[Mark] = []
    wake = 0.0
    try:
        while True:
            socket.rcvtimeo = int(wake * 1000) or -1
            with suppress(zmq.Again):
                frame = socket.recv()
                while frame != NOTICE:
                    if notice := decode_notice(frame):
                        topics[notice[:2]] += notice[2]
                    elif mark := decode_twin(frame):
                        marks.append(mark)
                    frame = socket.recv(zmq.NOBLOCK)
                return
            if marks and on_marks is not None:
                on_marks(marks)
                marks.clear()
            if topics or wake:
                wake = on_notice(topics)
                topics.clear()
            sleep(_PAUSE_SECONDS)
    except zmq.ContextTerminated:
        pass
    finally:
        socket.close()
