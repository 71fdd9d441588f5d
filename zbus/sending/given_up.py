"""GivenUp: joiners that a publisher gave up, until they are back and told what they missed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Unavailable
from ..protocol.marks import Marks, Topic
from ..runtime import housekeeping
from .links import Links

__all__ = ["GivenUp"]


class GivenUp:
    """Those of one publisher. Not thread-safe: used under the publisher's lock."""

    def __init__(self, links: Links, emit: Callable[[bytes], None], look: Callable[[], None]) -> None:
        """Send marks with `emit`; have `look` called once a second while there are latecomers."""
        self._links = links
        self._emit = emit
        self._look = look
        self._marks = Marks()

    def note(self, stream: tuple[str, str, str], topic: Topic) -> None:
        """Note that the next event of a stream is the first since the links were settled."""
        self._marks.note(stream, topic, self._links.late)

    def account(self) -> None:
        """Prepare to tell those who have come back, and see to it that the others are looked for."""
        returned, self._links.returned = self._links.returned, []
        self._marks.tell(sorted(returned))
        self._marks.keep(self._links.late)
        if self._links.late or self._marks.waiting:
            with suppress(Unavailable):  # at the end of the interpreter nobody is looked for any more
                housekeeping.register(self._look)
        else:
            housekeeping.unregister(self._look)

    def send_marks(self) -> None:
        """Send the marks that wait, or raise `zmq.Again`: then the next time sends the rest."""
        while self._marks.waiting:
            self._emit(self._marks.waiting[0])
            self._marks.waiting.popleft()

    def tell(self) -> None:
        """Tell those who have come back, as far as there is room for that."""
        if self._links.late or self._marks.waiting:
            self._links.look()
            self.account()
            with suppress(zmq.Again):  # the next look is soon
                self.send_marks()

    def close(self) -> None:
        """Tell those who are back; nobody is looked for any more."""
        self.tell()
        housekeeping.unregister(self._look)
