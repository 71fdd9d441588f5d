"""Joiners that a publisher gave up, until they have answered and been told how much they missed.

A publisher does not wait forever for a subscriber that joins. What it sends meanwhile, that subscriber misses
without knowing it. So once it answers, the publisher sends a *mark* (see `protocol.marks`) for each stream
that has had events since. From the mark a channel knows how many it has lost.

    given up ─► Links.left_out_since ─► answers ─► Links.returned_since ─► mark sent ─► forgotten
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import zmq

from ..errors import Unavailable
from ..protocol.marks import Marks, Topic
from ..runtime import housekeeping
from .links import Links
from .time_field import TimeField

__all__ = ["MissedEvents"]


class MissedEvents:
    """What the joiners that a publisher gave up have missed. Not thread-safe: under the publisher's lock."""

    def __init__(
        self, links: Links, time: TimeField, emit: Callable[[bytes], None], notify: Callable[[], None]
    ) -> None:
        """Send marks with `emit`. `notify` is called once a second while there are such joiners."""
        self._links = links
        self._time = time
        self._emit = emit
        self._notify = notify
        self._marks = Marks()

    def note_topic(self, stream: tuple[str, str, str], topic: Topic) -> None:
        """Note that the next event of a stream is its first one since the links were settled."""
        self._marks.note(stream, topic, self._links.left_out_since)

    def update(self) -> None:
        """Prepare the marks for those who have answered; check on the others once a second."""
        returned, self._links.returned_since = self._links.returned_since, []
        self._marks.tell(sorted(returned), self._time.read())
        self._marks.keep(self._links.left_out_since)
        if self._links.left_out_since or self._marks.waiting:
            with suppress(Unavailable):  # the interpreter is about to end
                housekeeping.register(self._notify)
        else:
            housekeeping.unregister(self._notify)

    def send_marks(self) -> None:
        """Send the marks that wait. If it raises `zmq.Again`, the next call sends the rest."""
        while self._marks.waiting:
            self._emit(self._marks.waiting[0])
            self._marks.waiting.popleft()

    def notify_returned(self) -> None:
        """Send marks to those who have answered, as far as there is room."""
        if self._links.left_out_since or self._marks.waiting:
            self._links.check_returned()
            self.update()
            with suppress(zmq.Again):  # the next call is within a second
                self.send_marks()

    def close(self) -> None:
        """Send the marks that there is room for, and stop checking."""
        self.notify_returned()
        housekeeping.unregister(self._notify)
