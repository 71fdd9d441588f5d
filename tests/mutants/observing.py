"""Faults in what is found out from outside: who receives an event, and why others do not."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_WHY = "live/test_cli_why.py::"
_UNUSUAL = "live/test_why_unusual.py::"
_UNIT = "unit/test_mismatch.py::"
_DOCTOR = "live/test_cli_doctor.py::"
_CLEANERS = "unit/test_cleaners.py::"

MUTANTS = [
    *(
        Mutant(name, "observe/verdicts.py", old, new, (_WHY + test,))
        for name, old, new, test in (
            (
                "a dead subscriber receives",
                "if not peer.alive:",
                "if False:",
                "test_one_that_is_stopped_and_one_that_is_dead",
            ),
            (
                "a stopped subscriber receives",
                "if state is not None and state.stopped:",
                "if False:",
                "test_one_that_is_stopped_and_one_that_is_dead",
            ),
            (
                "a kind is not looked at",
                "distance = system.distance + kind.distance",
                "distance = system.distance",
                "test_a_subscriber_to_the_system_with_another_kind",
            ),
            (
                "a channel that has lost events looks like any other",
                "if counts.quiet is None:",
                "if True:",
                "test_one_whose_queue_was_full",
            ),
            (
                "all subscribers are shown whoever was asked for",
                "(receiver is None or peer.member in wanted)",
                "True",
                "test_only_the_subscribers_of_one_member",
            ),
            (
                "other buses are not looked at",
                "elsewhere=[] if received else",
                "elsewhere=[] if True else",
                "test_one_that_is_on_another_bus",
            ),
            (
                "topics that are like it are not named",
                "[] if any(row.events for row in sending) else similar_topics(topic, senders)",
                "[]",
                "test_who_sends_it_or_something_like_it",
            ),
        )
    ),
    *(
        Mutant(name, file, old, new, (test,))
        for name, file, old, new, test in (
            (
                "a queue that was full once is full for ever",
                "observe/verdicts.py",
                "if behind or not counts.quiet:",
                "if True:",
                _UNUSUAL + "test_one_that_was_full_and_keeps_up_again",
            ),
            (
                "a loss of long ago goes on if nothing came since",
                "observe/losses.py",
                "quiet if quiet > _JUST_NOW_SECONDS else 0.0",
                "0.0",
                "unit/test_losses.py",
            ),
            (
                "a publisher that is stopped sends",
                "observe/senders.py",
                "state is not None and state.stopped",
                "False",
                _UNUSUAL + "test_a_publisher_that_is_stopped",
            ),
            (
                "a stopped publisher does not count",
                "cli/why.py",
                "        and not report.halted\n",
                "",
                _UNUSUAL + "test_a_publisher_that_is_stopped",
            ),
            (
                "the kernel is not asked where somebody listens",
                "observe/places.py",
                "found += (",
                "_ = (",
                _UNUSUAL + "test_one_whose_directory_comes_from_another_variable",
            ),
            (
                "a bus that may not be looked at is passed over",
                "observe/verdicts.py",
                "except zbus.PermissionDenied:",
                "except MemoryError:",
                _UNUSUAL + "test_one_on_a_bus_that_nobody_else_may_look_at",
            ),
            (
                "patterns beyond those of the entry do not count",
                "observe/verdicts.py",
                "[*peer.patterns, *more]",
                "peer.patterns",
                _UNUSUAL + "test_one_with_more_patterns_than_its_entry_tells",
            ),
            (
                "who does not tell its patterns has none that matches",
                "observe/verdicts.py",
                "if match.distance and not all_told:",
                "if False:",
                _UNUSUAL + "test_one_that_does_not_tell_all_its_patterns",
            ),
        )
    ),
    Mutant(
        "a policy that denies does not count",
        "cli/why.py",
        'what == "send" for what, _ in denials',
        "False for what, _ in denials",
        (_WHY + "test_what_a_policy_denies",),
    ),
    Mutant(
        "a proposal demands a word beside any number of words",
        "observe/mismatch.py",
        'if "**" in (segment, *parts[-1:]) and',
        "if False and",
        (_UNIT + "test_what_differs_and_what_would_do",),
    ),
    Mutant(
        "letter case is no detail",
        "observe/mismatch.py",
        "if text.casefold() == word.casefold():",
        "if False:",
        (_UNIT + "test_what_differs_and_what_would_do",),
    ),
    *(
        Mutant(name, f"observe/{file}.py", old, new, (test,))
        for name, file, old, new, test in (
            (
                "the loopback leaves its directory behind",
                "loopback",
                "shutil.rmtree(locate(root, name), ignore_errors=True)",
                "pass",
                _DOCTOR + "test_a_healthy_bus",
            ),
            (
                "foreign files are no finding",
                "checkup",
                "sorted(name for name in names if not _is_ours(name))",
                "[]",
                _DOCTOR + "test_files_that_are_not_ours_are_told_and_stay",
            ),
            (
                "a stopped member is no finding",
                "checkup",
                "if state is not None and state.stopped]",
                "if False]",
                _DOCTOR + "test_stopped_processes_and_losses",
            ),
            (
                "a lag of nobody's event",
                "checkup",
                "max((row.unread for row in channels if row.unread is not None), default=0.0)",
                "0.0",
                _DOCTOR + "test_check_ends_with_2_once_a_threshold_does_not_hold",
            ),
            (
                "an exemption from cleaning is not seen",
                "cleaners",
                "if kind in _EXEMPT:",
                "if False:",
                _CLEANERS + "test_what_does_not_clean",
            ),
            (
                "a later folder wins",
                "cleaners",
                "files.setdefault(file.name, file)",
                "files[file.name] = file",
                _CLEANERS + "test_the_first_folder_counts_and_the_longest_path",
            ),
        )
    ),
    *(
        Mutant(name, file, old, new, ("unit/test_graph.py::" + test,))
        for name, file, old, new, test in (
            (
                "the graph takes what a filter left out for never sent",
                "observe/graph.py",
                "_unsent(members, whole.topics)",
                "_unsent(members, bus.topics)",
                "test_what_was_left_out_is_not_taken_for_unsent_and_others_that_select_a_topic_stay",
            ),
            (
                "the graph has more edges than Mermaid draws",
                "observe/graph.py",
                " and len(found.sends) + len(found.receives) <= _MOST_EDGES",
                "",
                "test_many_members_that_do_different_things_need_few_edges_too",
            ),
            (
                "members of different programs are one node",
                "observe/graph.py",
                "alike[row.process, row.alive, ",
                "alike[row.alive, ",
                "test_a_pattern_that_nobody_has_sent_anything_for_is_shown_and_who_is_dead_waits_for_nothing",
            ),
            (
                "names are code for Mermaid",
                "observe/drawing.py",
                "lambda found: _entity(found[0]), line",
                "lambda found: found[0], line",
                "test_mermaid_labels_have_no_character_that_mermaid_gives_a_meaning",
            ),
            (
                "what Mermaid has decoded is code when it reads it again",
                "observe/drawing.py",
                "_JOINER if char in _READ_AGAIN else ''",
                "''",
                "test_mermaid_11_shows_these_names_as_they_are",
            ),
            (
                "names are tags of the SVG",
                "observe/graph_svg.py",
                "{escape(text)}</text>",
                "{text}</text>",
                "test_svg_is_xml_and_shows_every_name",
            ),
        )
    ),
    *(
        Mutant(name, file, old, new, ("live/test_cli_bench.py::" + test,))
        for name, file, old, new, test in (
            (
                "a benchmark leaves a process when it is interrupted",
                "cli/bench.py",
                "    process.kill()\n    process.wait()\n",
                "    return\n",
                "test_an_interrupt_leaves_no_process_and_no_bus",
            ),
            (
                "a benchmark that is killed leaves its bus",
                "cli/bench_peer.py",
                "    shutil.rmtree(place, ignore_errors=True)\n",
                "",
                "test_nothing_is_left_either_if_it_is_killed",
            ),
        )
    ),
]
