"""Faults of links to other machines: loops, copies, order, and losses that nobody tells."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_LINK = "live/test_link.py::"
_FAULTS = "live/test_link_faults.py::"
_SERVERS = "live/test_link_servers.py::"

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
        "what came in is acknowledged while it is still in the memory of the link",
        "links/inbound.py",
        "await self._bus.written(_SEND_SECONDS)",
        "pass",
        (
            "live/test_link_arrivals.py::test_what_came_in_is_acknowledged_when_a_block_subscriber_has_it",
            "live/test_link_arrivals.py::test_what_a_killed_link_had_sent_on_and_not_written_comes_again",
        ),
    ),
    Mutant(
        "what a link sends again is received again",
        "protocol/decoder.py",
        "if events and stamp.seq + len(events) <= stream.next and is_relayed(fields[3]):",
        "if False:",
        (
            "unit/test_decoder.py::test_what_a_link_sends_again_is_left_out",
            _FAULTS + "test_a_killed_link_that_brings_in_continues",
        ),
    ),
    Mutant(
        "a publisher that begins again under the same origin is not heard",
        "protocol/decoder.py",
        "<= stream.next and is_relayed(fields[3]):",
        "<= stream.next:",
        ("unit/test_decoder.py::test_a_publisher_here_may_begin_again_under_the_same_origin",),
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
        ("live/test_link_left_out.py::test_what_a_stream_will_never_take_is_left_out_and_told",),
    ),
    Mutant(
        "a link goes on if a cancellation was lost",
        "links/nats.py",
        "while left := [task for task in tasks if not task.done()]:",
        "if left := tasks:",
        (_FAULTS + "test_a_link_ends_though_a_cancellation_was_lost",),
    ),
    Mutant(
        "headers with more spaces are not stripped",
        "links/client.py",
        'if headers.translate(None, _OTHERS) == b"\\r\\n%b\\r\\n" % (len(lines) * b" \\r\\n"):',
        "if True:",
        ("unit/test_link_client.py::test_headers_that_arrive_are_read_as_nats_py_reads_them",),
    ),
    Mutant(
        "a line break in a header is sent, and what follows is a command to the server",
        "links/client.py",
        'if not lines or not text.count("\\n") == text.count("\\r") == len(lines) + 2:',
        "if not lines:",
        ("unit/test_link_client.py::test_headers_are_sent_as_nats_py_sends_them",),
    ),
    Mutant(
        "a nats-py that is built in another way is taken for a known one",
        "links/client.py",
        "return found == _METHODS and",
        "return True or",
        ("unit/test_link_client.py::test_a_nats_py_that_is_built_in_another_way_is_left_alone",),
    ),
    Mutant(
        "a link skips what has the numbers of messages that the stream has lost",
        "links/consumer.py",
        "return min(max(floor + 1, first), last + 1)",
        "return max(floor + 1, first, self.acknowledged + 1)",
        ("live/test_link_servers.py::test_a_stream_that_has_lost_its_end_goes_on",),
    ),
    Mutant(
        "what comes next overtakes what a full stream has refused",
        "links/outbound.py",
        "                if self._outstanding:\n                    headers =",
        "                if False:\n                    headers =",
        ("live/test_link_servers.py::test_a_full_work_queue_gets_events_in_order",),
    ),
    Mutant(
        "a link that is stopped does not acknowledge what it has sent on",
        "links/nats.py",
        "if self._into and self.numbers.server:",
        "if False:",
        (_LINK + "test_a_link_that_starts_again_continues_where_the_one_before_was",),
    ),
    Mutant(
        "the server sends on while this bus takes nothing",
        "links/consumer.py",
        '"flow_control": True,',
        '"flow_control": False,',
        ("live/test_link_full.py::test_with_jetstream_the_server_holds_the_rest_back",),
    ),
    Mutant(
        "the server waits for ever for an answer",
        "links/inbound.py",
        "await client.publish(request)",
        "pass",
        ("live/test_link_full.py::test_with_jetstream_the_server_holds_the_rest_back",),
    ),
    Mutant(
        "what is dropped before the first event of a stream is not told",
        "links/inbound.py",
        "if self._dropped and (lost := self._dropped.take(item[:3])) is not None:",
        "if False:",
        ("live/test_link_full.py::test_without_jetstream_the_oldest_are_dropped_and_told",),
    ),
    Mutant(
        "a block subscriber does not hear what is lost at the end of a topic of another bus",
        "sending/relay.py",
        "if self._publisher.block is not None:",
        "if False:",
        (_LINK + "test_what_is_told_of_the_end_of_a_topic_is_told_here",),
    ),
    Mutant(
        "what is too large for the other side is not told at the end of a topic",
        "links/outbox.py",
        "            if packet.events:\n                self._add(Packet(packet.subject",
        "            if False:\n                self._add(Packet(packet.subject",
        ("live/test_link_left_out.py::test_what_a_stream_will_never_take_is_left_out_and_told",),
    ),
    Mutant(
        "what is too large for this bus is not told at the end of a topic",
        "links/inbound.py",
        "                if item.path:  # perhaps",
        "                if False:  # perhaps",
        ("live/test_link_left_out.py::test_what_this_bus_will_never_take_is_left_out_and_told",),
    ),
    Mutant(
        "a large event of another machine takes one place",
        "sending/relay.py",
        "            self._links.pad(large, item.system, item.kind)\n",
        "",
        ("live/test_link_large.py",),
    ),
    Mutant(
        "a flush overtakes what was sent before",
        "links/client.py",
        'await self._send_command(b"PING\\r\\n")',
        'self._transport.write(b"PING\\r\\n")',
        (_SERVERS + "test_a_flush_comes_after_what_was_sent_before",),
    ),
    Mutant(
        "what a server without JetStream does not allow counts as carried",
        "links/outbound.py",
        "                    check_allowed(client)  # what the server has refused, it has said by then\n",
        "",
        (_SERVERS + "test_what_a_server_does_not_allow_is_told_and_not_lost",),
    ),
    Mutant(
        "a link takes its last server for the only one",
        "links/connection.py",
        "for server in servers:",
        "for server in servers[-1:]:",
        (_SERVERS + "test_a_link_finds_the_server_that_runs",),
    ),
    Mutant(
        "what was dropped at the end of a topic is not told",
        "links/outbox.py",
        "            while self._dropped:\n",
        "            while False:\n",
        (_FAULTS + "test_with_drop_nobody_waits_and_what_was_dropped_is_told",),
    ),
]
