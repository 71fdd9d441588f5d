"""MissedEvents: joiners that a publisher gave up, until they are back and told what they missed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Unavailable
from ..protocol.marks import Marks, Topic
from ..runtime import housekeeping
from .links import Links

__all__ = ["MissedEvents"]


class MissedEvents:
    """Those of one publisher. Not thread-safe: used under the publisher's lock."""

    def __init__(self, links: Links, emit: Callable[[bytes], None], notify: Callable[[], None]) -> None:
        """Send marks with `emit`; have `notify` called once a second while there are latecomers."""
        self._links = links
        self._emit = emit
        self._notify = notify
        self._marks = Marks()

    def note_topic(self, stream: tuple[str, str, str], topic: Topic) -> None:
        """Note that the next event of a stream is the first since the links were settled."""
        self._marks.note(stream, topic, self._links.left_out_since)

    def update(self) -> None:
        """Prepare to tell those who have come back, and see to it that the others are looked for."""
        returned, self._links.returned_since = self._links.returned_since, []
        self._marks.tell(sorted(returned))
        self._marks.keep(self._links.left_out_since)
        if self._links.left_out_since or self._marks.waiting:
            with suppress(Unavailable):  # at the end of the interpreter nobody is looked for any more
                housekeeping.register(self._notify)
        else:
            housekeeping.unregister(self._notify)

    def send_marks(self) -> None:
        """Send the marks that wait, or raise `zmq.Again`: then the next time sends the rest."""
        while self._marks.waiting:
            self._emit(self._marks.waiting[0])
            self._marks.waiting.popleft()

    def notify_returned(self) -> None:
        """Tell those who have come back, as far as there is room for that."""
        if self._links.left_out_since or self._marks.waiting:
            self._links.check_returned()
            self.update()
            with suppress(zmq.Again):  # the next look is soon
                self.send_marks()

    def close(self) -> None:
        """Tell those who are back; nobody is looked for any more."""
        self.notify_returned()
        housekeeping.unregister(self._notify)
