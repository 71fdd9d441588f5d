"""Faults in recordings: what is counted when a file cannot be written, what is kept, what is replayed."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_FAILURES = "live/test_record_failures.py::"
_RECORD = "live/test_record.py::"
_REPLAY = "live/test_replay.py::"
_FILES = "unit/test_recording_files.py::"

MUTANTS = [
    Mutant(
        "what came after a chunk that found no room is not counted",
        "recording/background.py",
        "self._unwritten.add(packed)",
        "pass",
        (_FAILURES + "test_what_waits_in_the_queue_is_counted_too",),
    ),
    Mutant(
        "an idle recorder does not notice that the disk is full",
        "recording/session.py",
        "if self._background.failed:",
        "if False:",
        (_FAILURES + "test_a_full_disk_costs_what_is_told_and_no_more",),
    ),
    Mutant(
        "no room is set aside for the end of a file",
        "recording/file.py",
        "end = self.size + size + _END_BYTES",
        "end = self.size + size",
        (_FILES + "test_room_for_the_end_is_set_aside_before_a_chunk_is_written",),
    ),
    Mutant(
        "a file that was removed is as good as any",
        "recording/file.py",
        "and not os.fstat(self._fd).st_nlink",
        "and False",
        (_FAILURES + "test_a_file_that_is_removed_at_the_end_is_an_error",),
    ),
    Mutant(
        "a file that was begun in vain stays",
        "recording/file.py",
        "                os.unlink(self.path)\n",
        "                pass\n",
        (_FILES + "test_a_file_that_cannot_be_begun_is_not_left_behind",),
    ),
    Mutant(
        "a ring goes by the clock that people set",
        "recording/sinks.py",
        "oldest = time.monotonic() - self._seconds",
        "oldest = self._chunks[-1][1].end / 1e9 - 9_000.0 - self._seconds",
        (_FILES + "test_a_ring_does_not_mind_when_the_clock_is_set",),
    ),
    Mutant(
        "a ring that cannot be saved is forgotten",
        "recording/background.py",
        "            self.unsaved = error\n",
        "            pass\n",
        (_FAILURES + "test_what_cannot_be_saved_now_is_saved_later",),
    ),
    Mutant(
        "a signal saves all but the newest events",
        "recording/session.py",
        "self._recorder.flush(self._tap, self._background)",
        "pass",
        (_RECORD + "test_the_last_seconds_are_written_on_demand",),
    ),
    Mutant(
        "the space bar does not pause",
        "cli/replay.py",
        'if " " in pressed(0.0):',
        "if False:",
        (_REPLAY + "test_the_space_bar_pauses_and_goes_on",),
    ),
    Mutant(
        "the speed is not looked at",
        "cli/replay.py",
        "None if fast else speed",
        "None if fast else 1.0",
        (_REPLAY + "test_hours_between_events_pass_as_fast_as_told",),
    ),
    Mutant(
        "events are sent without the time between them",
        "recording/replay.py",
        "            if left(sent):\n",
        "            if False:\n",
        (_REPLAY + "test_an_event_waits_for_its_time",),
    ),
    *(
        Mutant(name, file, old, new, (test,))
        for name, file, old, new, test in (
            (
                "all is sent at once after the clock was set back",
                "recording/replay.py",
                "if reading.set_back:",
                "if False:",
                _REPLAY + "test_an_event_waits_for_its_time_after_the_clock_was_set_back",
            ),
            (
                "a background job asks its terminal",
                "cli/keys.py",
                "return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()",
                "return True",
                _REPLAY + "test_a_background_job_goes_on",
            ),
            (
                "a pipe that nobody reads is waited for",
                "recording/file.py",
                "flags | os.O_NONBLOCK",
                "flags",
                _FAILURES + "test_a_pipe_that_nobody_reads_is_one_line",
            ),
            (
                "split files are never full",
                "recording/sinks.py",
                "        if self._is_full(chunk):",
                "        if False:",
                _RECORD + "test_split_files_are_each_complete",
            ),
            (
                "patterns select nothing of a replay",
                "recording/replay.py",
                "                if not self._wants(topic):\n",
                "                if False:\n",
                _REPLAY + "test_patterns_select",
            ),
            (
                "a loop ends",
                "cli/replay.py",
                "if not loop or sent.events == before:",
                "if True:",
                _REPLAY + "test_it_is_seen_on_the_roster_and_loops_until_a_signal",
            ),
            (
                "SIGUSR1 saves nothing",
                "cli/record.py",
                "lambda *_: session.save()",
                "lambda *_: None",
                _RECORD + "test_the_last_seconds_are_written_on_demand",
            ),
        )
    ),
]
