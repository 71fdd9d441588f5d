"""Faults in what a publisher tells at rest, and in what a process does with it."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_TAILS = "live/test_tails.py::"
_SENT = "live/test_marks_sent.py::"
_MARKS = ("unit/test_marks.py",)
_RESTS = (_SENT + "test_a_publisher_at_rest_tells_which_number_is_next",)
_SLOW = (_TAILS + "test_a_slow_reader_learns_its_tail_after_the_publisher_has_closed",)
_STOPPED = (_TAILS + "test_a_process_that_was_stopped_learns_what_a_full_publisher_dropped",)

MUTANTS = [
    *(
        Mutant(name, "protocol/marks.py", old, new, _MARKS)
        for name, old, new in (
            ("a mark bears the last number", "topic.seq + 1, time)", "topic.seq, time)"),
            ("a mark is sent again though nothing was", "topic.marked = topic.seq", "pass"),
            (
                "what is in doubt is not owed again",
                "again.update(self._owed)\n        self._owed = again",
                "pass",
            ),
            ("what is in doubt stays so for good", "        self._in_doubt.clear()", "        pass"),
            (
                "a topic that was not used since a settling owes a mark",
                "topic.seq != topic.marked and topic.first <= topic.seq:",
                "topic.seq != topic.marked:",
            ),
            ("a mark that is not marked as a twin is one", "if not frame.startswith(TWIN):", "if not frame:"),
            ("an event is taken for a mark", "    if events:\n        return None\n", ""),
        )
    ),
    *(
        Mutant(name, "protocol/loss.py", old, new, _MARKS)
        for name, old, new in (
            (
                "who has not joined has accounted for all",
                "        if self._announced_at == inf:\n            return False\n",
                "",
            ),
            (
                "a lost head is accounted for",
                " and not (stream and counted and self._reveals_head(stream, settled, first))",
                "",
            ),
            ("what no stream can lose is never accounted for", "due < 0 or due < seq - MAX_GAP", "due < 0"),
        )
    ),
    Mutant(
        "a publisher that rests looks no more",
        "sending/tails.py",
        "        elif not idle:\n            self._look_in(_REST_SECONDS)\n",
        "",
        _RESTS,
    ),
    Mutant(
        "a publisher in use is taken to rest",
        "sending/tails.py",
        "self._token, publisher.settled_token = publisher.settled_token, NEVER",
        "self._token = publisher.settled_token",
        (_SENT + "test_a_send_after_a_look_shows_that_the_publisher_is_in_use",),
    ),
    Mutant(
        "a settling is no occasion to tell what was before",
        "sending/publisher.py",
        "        self._tails.tell(topic, twin_only=True)\n",
        "",
        (
            _SENT + "test_after_a_join_a_mark_tells_of_what_was_sent_before_it",
            _TAILS + "test_what_comes_before_another_join_is_told_to_those_who_had_joined",
        ),
    ),
    Mutant(
        "a publisher that closes tells nothing",
        "node/node.py",
        "        self.publisher.finish(deadline)\n        with self._lock",
        "        with self._lock",
        (_SENT + "test_a_publisher_that_closes_tells_which_number_is_next",),
    ),
    Mutant(
        "a process that ends hard tells nothing",
        "node/node.py",
        "            self.publisher.finish(deadline)\n            for",
        "            for",
        (_TAILS + "test_a_process_that_ends_hard_tells_its_tail",),
    ),
    Mutant(
        "a bus that is opened at exit tells nothing",
        "sending/publisher.py",
        "        if self._flush_each:  # nobody looks again\n            self._tails.tell(topic)\n",
        "",
        (_TAILS + "test_a_bus_that_is_opened_at_exit_tells_its_tail",),
    ),
    Mutant(
        "an origin that ends tells nothing",
        "sending/tails.py",
        "        self._marks.owe_unmarked(topics)\n        self._send(1)",
        "        self._send(1)",
        (_TAILS + "test_an_origin_that_ends_tells_its_tails",),
    ),
    Mutant(
        "who was full is told once",
        "sending/tails.py",
        "            self._full |= self._links.lossy()\n",
        "",
        _STOPPED,
    ),
    Mutant(
        "libzmq is not asked who has room again",
        "sending/tails.py",
        "                self._links.process_commands()  # only now does libzmq use those links again\n",
        "",
        (_TAILS + "test_a_publisher_that_closes_when_there_is_room_again_tells_its_tail",),
    ),
    Mutant(
        "marks have no twins", "protocol/marks.py", "return mark, TWIN + mark", "return mark, mark", _SLOW
    ),
    Mutant(
        "a mark is not sent again",
        "receiving/retained.py",
        "            self._send(mark.frame)\n",
        "            pass\n",
        (_TAILS + "test_a_reader_that_waits_learns_its_tail",),
    ),
    Mutant(
        "a mark goes by the queue only",
        "receiving/source.py",
        "            self.decoder.decode(mark.frame)\n            self.decoder.batch = None\n",
        "            pass\n",
        (_TAILS + "test_a_channel_that_nobody_reads_learns_its_tail_and_keeps_its_room",),
    ),
    Mutant(
        "a mark overtakes what has arrived",
        "receiving/source.py",
        "self.decoder.batch is None and not self.queue.closing and not self.queue.waits():",
        "not self.queue.closing:",
        (_TAILS + "test_a_mark_overtakes_nothing_that_has_arrived",),
    ),
    Mutant(
        "a mark waits for channels that have accounted for it",
        "receiving/retained.py",
        "self._done(key, mark, forget=accounted)",
        "self._done(key, mark, forget=False)",
        (_TAILS + "test_a_mark_is_forgotten_once_every_channel_has_accounted_for_it",),
    ),
    Mutant(
        "a look goes through all topics though marks are owed",
        "sending/tails.py",
        "        if self._marks:\n            return False\n",
        "",
        ("unit/test_resting.py::test_topics_are_gone_through_once_however_small_the_queue_is",),
    ),
    Mutant(
        "a close tells of what was owed already, and of nothing else",
        "sending/tails.py",
        "            done = self._owe_unmarked()\n",
        "            done = bool(self._owe_unmarked() or True)\n",
        ("unit/test_resting.py::test_a_close_that_cannot_wait_tells_of_what_was_owed_and_of_all_else",),
    ),
    Mutant(
        "a look that was owed marks forgets all else",
        "sending/tails.py",
        "if not (self._send(_AT_ONCE) and complete):",
        "if not self._send(_AT_ONCE):",
        ("unit/test_resting.py::test_a_look_that_was_owed_marks_comes_back_for_all_else",),
    ),
    Mutant(
        "a look goes through all marks though nobody can learn",
        "receiving/retained.py",
        "        if self.sources and len(self.busy) == len(self.sources):\n            return True\n",
        "",
        ("unit/test_retained.py::test_who_is_busy_with_frames_is_not_asked_again_in_the_same_look",),
    ),
    Mutant(
        "marks are passed on to a queue that may be full of them",
        "receiving/retained.py",
        "            return 0\n        return max(1,",
        "            pass\n        return max(1,",
        ("unit/test_retained.py::test_half_of_a_queue_at_a_time_is_passed_on_to_who_waits",),
    ),
    Mutant(
        "a mark that was passed on is taken to have arrived",
        "receiving/retained.py",
        "now < passed_at + _AGAIN_SECONDS and",
        "",
        ("unit/test_retained.py::test_what_was_passed_on_and_dropped_is_passed_on_again",),
    ),
    Mutant(
        "a look begins by copying all marks",
        "receiving/retained.py",
        "return list(islice(self._marks.items(), count))",
        "return list(self._marks.items())[:count]",
        ("faults/test_faults.py::test_fault[21]",),
    ),
    Mutant(
        "who passes marks on waits before it goes on",
        "receiving/retained.py",
        "_SOON_SECONDS if look.passed_on else _NEXT_SECONDS",
        "_NEXT_SECONDS",
        (
            "unit/test_retained.py"
            "::test_a_look_comes_soon_after_one_that_helped_and_ever_later_after_one_that_did_not",
        ),
    ),
    Mutant(
        "a channel that closes forgets its tail",
        "receiving/queue.py",
        "            self._frames.extend(marks)\n",
        "",
        (_TAILS + "test_a_channel_that_closes_knows_its_tail_when_it_is_drained",),
    ),
    Mutant(
        "a channel that closes is told what comes later",
        "receiving/queue.py",
        "            self._frames.extend(marks)\n",
        "            self._frames.extend(self.marks_at_end())\n",
        (_TAILS + "test_what_comes_while_a_channel_closes_is_not_lost",),
    ),
    Mutant(
        "block subscribers get marks",
        "sending/tails.py",
        "        if (drop := self._links.drop) is None:\n            return True\n",
        "        if self._links.block is not None:\n            self._links.block(frame)\n"
        "        if (drop := self._links.drop) is None:\n            return True\n",
        (_SENT + "test_a_block_subscriber_gets_no_mark",),
    ),
]
