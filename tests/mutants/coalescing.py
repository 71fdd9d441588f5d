"""Faults in what `coalesce` holds: when it goes, what goes before it, and that it goes once."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_FILE = "sending/coalescer.py"
_LIVE = "live/test_coalesce.py::"
_ENDS = "live/test_coalesce_ends.py::"
_UNIT = "unit/test_coalescer.py::"
_INTERRUPTED = (_ENDS + "test_an_interrupt_neither_loses_nor_repeats_what_was_accepted",)

MUTANTS = [
    Mutant(
        "what is held stays when it is old",
        _FILE,
        "            self.try_to_go()\n            left = _RETRY_SECONDS",
        "            left = _RETRY_SECONDS",
        (_LIVE + "test_what_is_held_goes_after_that_time",),
    ),
    Mutant(
        "the timer runs once only",
        _FILE,
        "        self._scheduled = False\n        since",
        "        since",
        (_LIVE + "test_what_is_held_goes_after_that_time",),
    ),
    Mutant(
        "each batch asks for a timer",
        _FILE,
        "if not self._scheduled:\n            try:",
        "if True:\n            try:",
        (_LIVE + "test_a_stream_in_full_flow_does_not_wake_the_housekeeping_for_each_batch",),
    ),
    Mutant(
        "an event is held whatever came before it",
        _FILE,
        "return now - before > self._soon",
        "return False",
        (_LIVE + "test_the_third_event_in_a_row_is_held_and_flush_sends_it",),
    ),
    Mutant(
        "an event with a timeout is held",
        _FILE,
        "if late or timeout is not DEFAULT or",
        "if late or",
        (_LIVE + "test_what_cannot_be_held_goes_after_what_is_held",),
    ),
    Mutant(
        "another kind overtakes what is held",
        "sending/sender.py",
        "if other and not coalescer.rows:",
        "if other:",
        (_LIVE + "test_topics_in_turn_arrive_in_order",),
    ),
    Mutant(
        "bytes overtake what is held",
        _FILE,
        "        except TypeError:\n            return self.let_pass(timeout) if self.rows else timeout",
        "        except TypeError:\n            return timeout",
        (_LIVE + "test_what_cannot_be_held_goes_after_what_is_held",),
    ),
    Mutant(
        "what takes the long way overtakes what is held",
        "sending/publisher.py",
        "        if (coalescer := self.coalescer) is not None:\n            coalescer.transmit_or_wait",
        "        if (coalescer := self.coalescer) is None:\n            coalescer.transmit_or_wait",
        (_LIVE + "test_what_cannot_be_held_goes_after_what_is_held",),
    ),
    Mutant(
        "an event overtakes what is held for a full subscriber",
        _FILE,
        "return DEFAULT if self._under_lock(self.go) else BEHIND",
        "return DEFAULT if self._under_lock(self.go) or True else BEHIND",
        (_UNIT + "test_what_finds_no_room_stays_and_keeps_others_behind",),
    ),
    Mutant(
        "a batch has any number of rows",
        _FILE,
        " or places <= 0:",
        ":",
        (_LIVE + "test_a_batch_goes_when_it_has_128_rows",),
    ),
    Mutant(
        "a batch forgets what a stamp may grow to",
        "protocol/rows.py",
        "_OVERHEAD_BYTES = 192",
        "_OVERHEAD_BYTES = 64",
        ("unit/test_rows.py::test_a_batch_keeps_to_the_limit_whatever_its_stamp",),
    ),
    Mutant(
        "a text that compares in its own way is held under the wrong topic",
        _FILE,
        "            or topic[1].__class__ not in ALIKE\n",
        "",
        (_UNIT + "test_a_text_that_passes_for_another_one_is_not_held",),
    ),
    Mutant(
        "what is held does not go to who has joined meanwhile",
        "sending/publisher.py",
        "if self.token[0] != self.settled_token:\n            self._settle(closed=closed)",
        "if self.token[0] != self.settled_token and not closed:\n            self._settle()",
        (_LIVE + "test_what_is_held_while_somebody_joins_is_counted_if_there_is_no_room",),
    ),
    Mutant(
        "what is held waits for who joins, at any send",
        _FILE,
        "known = publisher.token[0] == publisher.settled_token\n",
        "known = True\n",
        (_UNIT + "test_nothing_goes_at_once_while_somebody_joins",),
    ),
    Mutant(
        "a NaN is held as null",
        _FILE,
        "            check_row(path, data, row)\n",
        "",
        (_LIVE + "test_what_send_refuses_is_refused_at_once_and_takes_no_number",),
    ),
    Mutant(
        "a NaN is added as null to what is held",
        "sending/sender.py",
        "if not null and path",
        "if path",
        (_LIVE + "test_what_send_refuses_is_refused_at_once_and_takes_no_number",),
    ),
    Mutant(
        "a path with a NUL is added to what is held",
        "sending/sender.py",
        'and "\\0" not in path and (size',
        "and (size",
        (_LIVE + "test_what_send_refuses_is_refused_at_once_and_takes_no_number",),
    ),
    Mutant(
        "an event with a timeout is added to what is held",
        "sending/sender.py",
        "system is opened[0] and timeout is DEFAULT and",
        "system is opened[0] and",
        (_LIVE + "test_what_cannot_be_held_goes_after_what_is_held",),
    ),
    Mutant(
        "an event with a timeout goes before what is held",
        "sending/sender.py",
        "and not (coalescer and coalescer.rows) and",
        "and",
        (_LIVE + "test_what_cannot_be_held_goes_after_what_is_held",),
    ),
    Mutant(
        "any number of rows is added to a batch",
        "sending/sender.py",
        "if places > 0 and room",
        "if room",
        (_LIVE + "test_a_batch_goes_when_it_has_128_rows",),
    ),
    Mutant(
        "any number of bytes is added to a batch",
        "sending/sender.py",
        "room >= MIN_ROOM and",
        "",
        (_LIVE + "test_a_batch_goes_when_it_has_64_kib",),
    ),
    Mutant(
        "a row is added to another topic",
        "sending/sender.py",
        "if kind is opened[1] and system",
        "if system",
        (_LIVE + "test_topics_in_turn_arrive_in_order",),
    ),
    Mutant(
        "one row goes as a batch",
        _FILE,
        "if len(rows) == 1:",
        "if not rows:",
        (_LIVE + "test_one_event_that_is_held_goes_as_a_plain_one",),
    ),
    Mutant(
        "a batch that an interrupt cut short begins anew",
        _FILE,
        "        if self._steps >= step:\n            return\n",
        "",
        _INTERRUPTED,
    ),
    Mutant(
        "an interrupt leaves a batch half sent",
        _FILE,
        "if self._frame is not None:  # an interrupt: others",
        "if False:  # an interrupt: others",
        (_UNIT + "test_an_interrupt_leaves_no_batch_half_sent",),
    ),
    Mutant(
        "a close forgets what is held",
        "node/node.py",
        "            for pause in coalescer.handing_over(deadline):",
        "            for pause in ():",
        (_ENDS + "test_an_end_of_the_process_sends_what_is_held",),
    ),
    Mutant(
        "a flush forgets what is held",
        "node/node.py",
        "            yield from coalescer.handing_over(begun + seconds)",
        "            yield from ()",
        (_LIVE + "test_the_third_event_in_a_row_is_held_and_flush_sends_it",),
    ),
    Mutant(
        "what a close could not hand over is not told",
        _FILE,
        "        if rows := self.rows:\n            system",
        "        if rows := ():\n            system",
        (_ENDS + "test_close_says_what_it_could_not_hand_over",),
    ),
    Mutant(
        "a child holds on to what its parent sends",
        "sending/publisher.py",
        "            self.coalescer.forget()",
        "            pass",
        (_ENDS + "test_a_child_drops_its_copy_and_the_parent_keeps_what_is_held",),
    ),
    Mutant(
        "a process that ends hard tells its tail before it sends what it held",
        "node/node.py",
        "            self.hand_over_held(deadline)  # first, so that the last marks tell of it\n",
        "",
        ("live/test_tails.py::test_a_process_that_ends_hard_tells_its_tail",),
    ),
    Mutant(
        "a capture does not wait for what is held",
        "testing/capture.py",
        "            node.hand_over_held(deadline)\n",
        "",
        (
            "live/test_testing.py::test_capture_has_what_a_bus_that_coalesces_sent",
            "live/test_testing.py::test_capture_waits_for_what_a_joiner_holds_up",
        ),
    ),
]
