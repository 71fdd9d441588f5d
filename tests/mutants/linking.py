"""Faults of links to other machines: loops, copies, order, and losses that nobody tells."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_LINK = "live/test_link.py::"
_FAULTS = "live/test_link_faults.py::"

MUTANTS = [
    Mutant(
        "an event comes back to a bus where it has been",
        "links/inbound.py",
        "if self._bus_id in item.via:",
        "if False:",
        (_LINK + "test_no_event_comes_back_to_a_bus_where_it_has_been",),
    ),
    Mutant(
        "what comes by two ways is sent on twice",
        "sending/relay.py",
        "if not item.path or item.seq <= topic.seq:",
        "if not item.path:",
        (_LINK + "test_no_event_comes_back_to_a_bus_where_it_has_been",),
    ),
    Mutant(
        "a new connection does not send again what was not acknowledged",
        "links/outbound.py",
        "self._next, self._outstanding = self._outbox.window.begin, 0",
        "self._next, self._outstanding = max(self._next, self._outbox.window.begin), 0",
        (_FAULTS + "test_a_server_that_is_killed_and_starts_again_loses_nothing",),
    ),
    Mutant(
        "what a stream has refused is no longer in the spill file once the next one was taken",
        "links/outbox.py",
        "self._spill.taken(oldest.begin if oldest is not None and oldest.position else None)",
        "self._spill.taken(packet.position)",
        ("unit/test_outbox.py::test_what_was_refused_stays_in_the_file_though_the_next_one_was_taken",),
    ),
    Mutant(
        "a file of another kind is overwritten",
        "links/spill.py",
        "if not _MAGIC.startswith(magic):",
        "if False:",
        ("unit/test_outbox.py::test_a_file_of_another_kind_is_left_as_it_is",),
    ),
    Mutant(
        "what a stream will never take holds up all that follows",
        "links/outbound.py",
        "if taken or code == _TOO_LARGE:",
        "if taken:",
        (_FAULTS + "test_what_a_stream_will_never_take_is_left_out_and_told",),
    ),
    Mutant(
        "a link goes on if a cancellation was lost",
        "links/nats.py",
        "while left := [task for task in tasks if not task.done()]:",
        "if left := tasks:",
        (_FAULTS + "test_a_link_ends_though_a_cancellation_was_lost",),
    ),
    Mutant(
        "what was dropped at the end of a topic is not told",
        "links/outbox.py",
        "            for key in [*self._dropped]:\n                self._tell_dropped(key)\n",
        "",
        (_FAULTS + "test_with_drop_nobody_waits_and_what_was_dropped_is_told",),
    ),
]
