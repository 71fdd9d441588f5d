"""Faults in live numbers: what is counted, how it is published, who is disturbed."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_RECEIVED = ("unit/test_received.py",)
_OBSERVER = ("unit/test_observer.py",)
_VECTORS = ("conformance/test_numbers.py",)
_RATES = ("unit/test_rates.py",)
_LIVE = "live/test_numbers.py::"
_FILE = "live/test_numbers_file.py::"
_SNAPSHOT = "unit/test_snapshot.py::"
_DECODER = "unit/test_decoder.py::"
_TAP = "live/test_tap.py::"
_UNREAD = "live/test_unread.py::"

MUTANTS = [
    *(
        Mutant(name, file, old, new, (_UNREAD + test,))
        for name, file, old, new, test in (
            (
                "a mark that waits is unread",
                "receiving/source.py",
                "self._event_waits() if self._marks and not self.queue.closing else",
                "",
                "test_who_has_read_everything_has_nothing_unread",
            ),
            (
                "nobody is told of marks that may wait",
                "receiving/retained.py",
                "            source.note(mark)\n",
                "            pass\n",
                "test_who_has_read_everything_has_nothing_unread",
            ),
            (
                "a reader waits for the socket while its event is held",
                "receiving/source.py",
                " or queue.held is not None",
                "",
                "test_an_event_that_was_looked_at_is_the_next_one",
            ),
            (
                "an event that was looked at is gone when the channel closes",
                "receiving/queue.py",
                "self._frames.append(self.held)",
                "pass",
                "test_an_event_that_was_looked_at_is_the_next_one",
            ),
            (
                "large frames are no longer counted after one that was looked at",
                "receiving/queue.py",
                "                if instead_of in (None, self._afterwards):\n"
                "                    self._afterwards = recv\n",
                "                pass\n",
                "test_large_frames_are_counted_from_one_that_was_looked_at_on",
            ),
        )
    ),
    Mutant(
        "a frame without a number is not received",
        "protocol/decoder.py",
        "            if not stamp.origin:\n                self._streams.uncounted += len(events)\n",
        "",
        _RECEIVED,
    ),
    Mutant(
        "what a forgotten stream has received is forgotten",
        "protocol/loss.py",
        "        self.uncounted += _passed(self._old)\n",
        "",
        _RECEIVED,
    ),
    Mutant(
        "the short cut counts on a stream that is forgotten",
        "protocol/loss.py",
        "            stream.begin_at(-1)\n        self.changes",
        "            pass\n        self.changes",
        _RECEIVED,
    ),
    Mutant(
        "a publisher that begins again takes its count with it",
        "protocol/loss.py",
        "            self.uncounted += max(0, stream.next - seq) * stream.wanted\n",
        "",
        _RECEIVED,
    ),
    Mutant(
        "a look may fall into the middle of a frame",
        "protocol/loss.py",
        "if changes == self.changes and not changes % 2 else None",
        "if changes == self.changes else None",
        _RECEIVED,
    ),
    Mutant(
        "an interrupt ends the counting",
        "protocol/decoder.py",
        "self._streams.changes |= 1  #",
        "self._streams.changes += 1  #",
        _RECEIVED,
    ),
    Mutant(
        "what is lost counts as received",
        "protocol/decoder.py",
        "return passed - lost",
        "return passed",
        _RECEIVED,
    ),
    Mutant(
        "bytes of the fast path are not counted",
        "sending/sender.py",
        "topic.seq, topic.bytes = seq, topic.bytes + size",
        "topic.seq = seq",
        (_LIVE + "test_bytes_are_those_of_the_frames",),
    ),
    Mutant(
        "bytes of the long way are not counted",
        "sending/publisher.py",
        "        topic.bytes += size\n",
        "",
        (_LIVE + "test_bytes_are_those_of_the_frames",),
    ),
    Mutant(
        "a new origin begins the totals again",
        "sending/streams.py",
        "        topics.before = self.totals()\n",
        "",
        (_LIVE + "test_a_new_origin_begins_a_new_table_and_the_totals_go_on",),
    ),
    Mutant(
        "the number goes before the table",
        "roster/numbers.py",
        "    data = len(text)",
        "    os.pwrite(fd, number.to_bytes(8, 'little'), _LATEST_OFFSET)\n    data = len(text)",
        (_FILE + "test_a_reader_never_sees_half_a_table",),
    ),
    Mutant(
        "there is one slot",
        "roster/numbers.py",
        "return TEXT_END + number % 2 * SLOT_BYTES",
        "return TEXT_END",
        _VECTORS,
    ),
    Mutant(
        "a reader does not look again",
        "roster/numbers.py",
        "        if _unsigned(fd, _LATEST_OFFSET) == number:\n",
        "        if number:\n",
        (_FILE + "test_a_reader_never_sees_half_a_table",),
    ),
    Mutant(
        "a slot that ends early is read",
        "roster/numbers.py",
        'return text if len(text) == length else b""',
        "return text",
        _VECTORS,
    ),
    Mutant(
        "a file of any size is read",
        "roster/numbers.py",
        "if os.fstat(fd).st_size <= MEMBER_BYTES:",
        "if True:",
        _VECTORS,
    ),
    Mutant(
        "an idle process publishes every second",
        "node/numbers.py",
        "if text != self._published:",
        "if text:",
        (_LIVE + "test_an_idle_process_publishes_nothing",),
    ),
    Mutant(
        "looks may take a whole core",
        "node/numbers.py",
        "(time.thread_time() - begun) / _CPU_SHARE",
        "0.0",
        (_FILE + "test_a_look_that_takes_long_is_not_repeated_soon",),
    ),
    Mutant(
        "rows are shown whether or not there is room",
        "node/numbers.py",
        "if size <= most]",
        "if size]",
        (_FILE + "test_whatever_there_is_to_tell_it_fits_into_a_slot",),
    ),
    Mutant(
        "one very long name hides the other topics",
        "node/numbers.py",
        "if max(map(len, names)) <= _NAME_CHARS]",
        "if names]",
        (_FILE + "test_names_that_are_very_long_do_not_hide_the_others",),
    ),
    Mutant(
        "a file that is made again has no numbers until they change",
        "roster/members.py",
        "                if self._numbers:\n                    self._publish()\n",
        "",
        (_LIVE + "test_numbers_outlive_the_directory",),
    ),
    Mutant(
        "a count that comes amid a publication waits for the next one",
        "roster/members.py",
        "            self._numbers = numbers\n            self._publish()\n        self._count_added()\n",
        "            self._numbers = numbers\n            self._publish()\n",
        (_LIVE + "test_counters_that_come_while_numbers_are_published_are_counted",),
    ),
    Mutant(
        "what a reader in another thread is about to take is unread",
        "receiving/observer.py",
        "if waiting is False or (waiting is None and not moved):",
        "if waiting is False:",
        _OBSERVER,
    ),
    Mutant(
        "each look begins the wait again",
        "receiving/observer.py",
        "        elif self._since is None:\n",
        "        else:\n",
        _OBSERVER,
    ),
    Mutant(
        "a look takes away what a task sleeps on",
        "receiving/source.py",
        "if not self.queue.closing and self.waker is not None and self.waker.waits:",
        "if False:",
        (_UNREAD + "test_a_task_that_waits_is_woken_though_somebody_has_looked",),
    ),
    Mutant(
        "what has arrived for a task that waits is not seen",
        "receiving/source.py",
        "            return bool(zmq_poll([(self.fileno(), zmq.POLLIN)], 0))",
        "            return False",
        (_UNREAD + "test_a_task_that_waits_is_woken_though_somebody_has_looked",),
    ),
    Mutant(
        "only the first look has a frame that was taken",
        "receiving/queue.py",
        "        self._sampling = True\n        self._receive_by(self._sampled, instead_of=self._recv)\n",
        "",
        (_UNREAD + "test_each_look_has_a_frame_of_its_own",),
    ),
    Mutant(
        "a frame that was taken waits until somebody looks",
        "receiving/source.py",
        "max(0.0, until - sent)",
        "max(0.0, __import__('time').time() - sent)",
        (_UNREAD + "test_a_frame_had_waited_until_it_was_taken",),
    ),
    Mutant(
        "the newest event of latest tells how long the oldest has waited",
        "receiving/latest.py",
        "evt, _ = next(iter(self._events.values()))",
        "evt, _ = next(reversed(self._events.values()))",
        (_UNREAD + "test_the_oldest_event_of_latest_tells_exactly_how_long_it_has_waited",),
    ),
    Mutant(
        "the rest of a batch is not unread",
        "receiving/source.py",
        "if length_hint(self.decoder.batch or ()):",
        "if False:",
        (_UNREAD + "test_the_rest_of_a_batch_is_unread",),
    ),
    Mutant(
        "the reader's lag is not seen while large frames are counted",
        "receiving/queue.py",
        "        if self._sampling:\n            self._keep(frame)\n",
        "",
        (_UNREAD + "test_large_frames_tell_it_too",),
    ),
    Mutant(
        "a process that was idle seems slow",
        "observe/rates.py",
        "max(was.time, looked - _PUBLISHED_EVERY)",
        "was.time",
        _RATES,
    ),
    Mutant(
        "who publishes nothing any more goes on as before",
        "observe/rates.py",
        "if now - numbers.time > late:",
        "if False:",
        (_SNAPSHOT + "test_who_publishes_nothing_any_more_is_idle",),
    ),
    Mutant(
        "with one look a process that was idle seems slow",
        "observe/rates.py",
        "recent = numbers.time - was.time <= late",
        "recent = True",
        (_SNAPSHOT + "test_who_was_idle_for_long_was_so_until_a_second_before",),
    ),
    Mutant(
        "the next publication is taken for the one before",
        "roster/numbers.py",
        "former.time >= latest.time",
        "False",
        (_FILE + "test_the_publication_before_is_there_until_it_is_written_over",),
    ),
    Mutant(
        "the publication before is taken although its owner writes over it",
        "roster/numbers.py",
        'return text if os.pread(fd, _BEGIN_BYTES, _slot(number - 1)) == begin else b""',
        "return text",
        (_FILE + "test_a_publication_that_is_written_over_meanwhile_is_not_taken",),
    ),
    Mutant(
        "a process that stands still has a reader that is no later than it was",
        "observe/snapshot.py",
        "row.unread and silent > _STANDS_STILL",
        "False",
        (_SNAPSHOT + "test_who_stands_still_with_unread_events_gets_older",),
    ),
    Mutant(
        "a frame is skipped whose number is not due",
        "protocol/decoder.py",
        ' or rest.partition(b".")[0] != b"%d" % stream.next:',
        ":",
        (_DECODER + "test_what_is_not_one_event_with_the_number_due_is_not_skipped",),
    ),
    Mutant(
        "a forged number is skipped in a stream that is not counted",
        "protocol/decoder.py",
        "stream is None or stream.next < 1 or rest",
        "stream is None or rest",
        (_DECODER + "test_no_frame_is_skipped_of_a_stream_that_is_not_counted",),
    ),
    Mutant(
        "what a mark told is never told",
        "observe/tap.py",
        "gaps = [report for report in reports if isinstance(report, Gap)]",
        "gaps: list[Gap] = []",
        (_TAP + "test_what_it_received_and_lost_adds_up_to_what_was_sent",),
    ),
    Mutant(
        "a batch is one event",
        "observe/tap.py",
        "evt, events = batch[0], len(batch)",
        "evt, events = batch[0], 1",
        (_TAP + "test_it_tells_topic_events_size_and_time_of_each_frame",),
    ),
    Mutant(
        "the rate forgets what was lost",
        "observe/arrivals.py",
        "rate=(part.events + part.lost) / seconds",
        "rate=part.events / seconds",
        ("unit/test_arrivals.py",),
    ),
    *(
        Mutant(name, "cli/exposition.py", old, new, ("live/test_cli_metrics.py::" + test,))
        for name, old, new, test in (
            (
                "a page of another site may read metrics",
                '.partition(":")[0] not in _OWN_NAMES',
                ".partition(\":\")[0] == ''",
                "test_only_this_machine_is_served_and_only_by_its_own_name",
            ),
            (
                "one request at a time",
                "class _Server(socketserver.ThreadingMixIn, WSGIServer):",
                "class _Server(WSGIServer):",
                "test_only_this_machine_is_served_and_only_by_its_own_name",
            ),
            (
                "a client that breaks off leaves a traceback",
                "if not isinstance(sys.exc_info()[1], OSError):",
                "if True:",
                "test_a_client_that_breaks_off_is_no_news",
            ),
        )
    ),
    Mutant(
        "names of others break the lines of metrics",
        "observe/metrics.py",
        "(bus, peer.id, visible(peer.process))",
        "(bus, peer.id, peer.process)",
        ("live/test_cli_metrics.py::test_names_that_others_chose_are_valid_labels",),
    ),
    Mutant(
        "a dead subscriber still selects topics",
        "observe/snapshot.py",
        "        if member.alive:\n            for system",
        "        if True:\n            for system",
        (_SNAPSHOT + "test_the_dead_select_nothing",),
    ),
]
