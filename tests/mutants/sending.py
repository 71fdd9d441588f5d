"""Faults between `send` and the sockets: the publisher, its stamps and its policy."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_STAMPS = "live/test_stamps.py::"
_SETTLED = (
    _STAMPS + "test_a_settling_is_told_on_every_frame_with_the_first_number_since",
    _STAMPS + "test_the_head_of_a_stream_in_use_is_counted_when_it_is_lost_after_the_join",
)
_NUMBERED = (_STAMPS + "test_a_stream_is_numbered_from_1_without_holes",)
_REFUSED = (_STAMPS + "test_what_is_refused_takes_no_number",)
_BORN = (_STAMPS + "test_a_topic_keeps_the_time_it_was_born_and_is_younger_than_one_before",)
_ORIGIN = (_STAMPS + "test_one_topic_too_many_begins_a_new_origin_for_all",)
_DENIED = (_STAMPS + "test_a_denied_topic_is_denied_each_time",)
_LIMIT = (_STAMPS + "test_a_frame_has_the_limit_to_the_byte_whether_its_topic_is_new_or_not",)
_TOKEN_AGAIN = (
    "        if self.token[0] != self.settled_token:\n            self._settle()\n        return self.streams"
)

MUTANTS = [
    Mutant(
        "a send waits forever on a machine that is always busy",
        "sending/publisher.py",
        "min(self._links.cpu_short_at, begun + MAX_TIMEOUTS * seconds)",
        "self._links.cpu_short_at",
        ("live/test_late_joiners.py::test_a_send_to_a_full_subscriber_ends_however_busy_the_machine_is",),
    ),
    Mutant(
        "templates are kept over a settling",
        "sending/publisher.py",
        "        self._tails.update()\n        self.current.clear()",
        "        self._tails.update()",
        _SETTLED,
    ),
    Mutant(
        "the time of a publisher's first frame is that of all",
        "sending/sender.py",
        "if _now() >= (time := publisher.time).until:",
        "if not (time := publisher.time).until:",
        ("live/test_sent_at.py::test_an_event_tells_when_it_was_sent",),
    ),
    Mutant(
        "batches bear an old time",
        "sending/publisher.py",
        "self.time.read()",
        "self.time.text",
        ("live/test_sent_at.py::test_the_events_of_a_batch_share_its_time",),
    ),
    Mutant(
        "a time is kept for a millisecond",
        "sending/time_field.py",
        "_KEPT_SECONDS = 0.0001",
        "_KEPT_SECONDS = 0.001",
        ("unit/test_time_field.py",),
    ),
    Mutant(
        "times are those of the machine's monotonic clock",
        "sending/time_field.py",
        "time.time_ns()",
        "int(time.monotonic() * 1e9)",
        ("unit/test_time_field.py",),
    ),
    Mutant(
        "templates are kept over a new origin",
        "sending/streams.py",
        "self._topics = self._topics.successor()\n        self.current.clear()",
        "self._topics = self._topics.successor()",
        _ORIGIN,
    ),
    Mutant(
        "topics are kept over a new origin",
        "sending/streams.py",
        "self._topics = self._topics.successor()\n        self.current.clear()",
        "self.current.clear()",
        _ORIGIN,
    ),
    Mutant(
        "no new origin for one topic too many",
        "sending/streams.py",
        "self._origin = self._new_origin()\n        self._topics",
        "self._topics",
        _ORIGIN,
    ),
    Mutant(
        "a new origin one topic late",
        "sending/streams.py",
        "len(self._topics) < MAX_TOPICS",
        "len(self._topics) <= MAX_TOPICS",
        _ORIGIN,
    ),
    Mutant(
        "the token is not looked at again for a first event",
        "sending/publisher.py",
        _TOKEN_AGAIN,
        "        return self.streams",
        (_STAMPS + "test_whoever_joins_at_the_moment_a_topic_is_born_gets_it_from_number_1",),
    ),
    Mutant(
        "a topic is born after the token was looked at again",
        "sending/publisher.py",
        "        born = clock()\n" + _TOKEN_AGAIN,
        _TOKEN_AGAIN.removesuffix("        return self.streams")
        + "        born = clock()\n        return self.streams",
        (_STAMPS + "test_whoever_joins_at_the_moment_a_topic_is_born_gets_it_from_number_1",),
    ),
    Mutant(
        "a policy is asked once, and a denied topic goes the second time",
        "sending/publisher.py",
        "            self._check_policy(system)\n",
        "            self.streams.add(system, kind, 0)\n            self._check_policy(system)\n",
        _DENIED,
    ),
    Mutant(
        "the policy is not asked about what is sent",
        "sending/publisher.py",
        "            self._check_policy(system)\n",
        "",
        _DENIED,
    ),
    Mutant(
        "the first number since the settling is the one before",
        "sending/streams.py",
        "topic.first = topic.seq + 1",
        "topic.first = topic.seq",
        _SETTLED,
    ),
    Mutant(
        "a topic is born anew with each settling",
        "sending/streams.py",
        "Stamp(self._origin, 0, topic.born,",
        "Stamp(self._origin, 0, settled,",
        _BORN,
    ),
    Mutant(
        "a batch takes one number",
        "sending/publisher.py",
        "topic.seq += events",
        "topic.seq += 1",
        _NUMBERED,
    ),
    Mutant(
        "what is too large takes a number",
        "sending/publisher.py",
        "        if len(frame) > self._max:\n            raise",
        "        if len(frame) > self._max:\n            topic.seq += events\n            raise",
        _REFUSED,
    ),
    Mutant(
        "the short way sends what is too large",
        "sending/publisher.py",
        "if size > self._max or",
        "if size > 2 * self._max or",
        _REFUSED,
    ),
    Mutant(
        "a frame at the limit is too large",
        "sending/publisher.py",
        "if len(frame) > self._max:",
        "if len(frame) >= self._max:",
        _LIMIT,
    ),
    Mutant(
        "a frame one byte above the limit is sent",
        "sending/publisher.py",
        "if len(frame) > self._max:",
        "if len(frame) > self._max + 1:",
        _LIMIT,
    ),
    Mutant(
        "the short way sends a frame one byte above the limit",
        "sending/publisher.py",
        "if size > self._max or",
        "if size > self._max + 1 or",
        _LIMIT,
    ),
    Mutant(
        "the short way numbers before it sends",
        "sending/sender.py",
        "                        if (block := publisher.block) is not None:\n",
        "                        topic.seq = seq\n"
        "                        if (block := publisher.block) is not None:\n",
        ("live/test_queues.py::test_what_a_full_subscriber_refuses_takes_no_number",),
    ),
    Mutant(
        "an event with a timeout takes the long way",
        "sending/sender.py",
        "timeout is DEFAULT or _may_go_now(coalescer, timeout)",
        "timeout is DEFAULT",
        ("live/test_bus.py::test_an_event_with_a_timeout_of_its_own_goes_the_short_way",),
    ),
    Mutant(
        "the short way does not check a timeout",
        "sending/sender.py",
        " and check_timeout(timeout) >= 0",
        "",
        ("live/test_bus.py::test_an_event_with_a_timeout_of_its_own_goes_the_short_way",),
    ),
    Mutant(
        "the drop lane goes first",
        "sending/publisher.py",
        "    def emit(self, frame: bytes) -> None:\n",
        "    def emit(self, frame: bytes) -> None:\n"
        "        if self.drop is not None:\n            self.drop(frame)\n"
        "        if self.block is not None:\n            self.block(frame)\n"
        "        return\n",
        (
            "live/test_overflow.py::test_a_stopped_block_subscriber_makes_send_raise_in_time_and_its_death_frees",
        ),
    ),
    Mutant(
        "a bus sends by a function of its own",
        "bus.py",
        "        Sender.__init__(self, node.publisher)\n",
        "        Sender.__init__(self, node.publisher)\n"
        '        vars(self)["send"] = Sender(node.publisher).send\n',
        ("live/test_handles.py",),
    ),
]
