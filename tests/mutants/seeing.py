"""Faults in who is seen: what a listing tells of the peers, and whom a timeout names."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_PEERS = "live/test_peers.py::"
_CLI = "live/test_cli_"
_WEB = "live/test_cli_web.py::"
_SERVER = "unit/test_web_server.py::"
_BLOCKERS = "live/test_blockers.py::"
_STOPPED = (_BLOCKERS + "test_a_stopped_subscriber_is_named_with_all_that_is_known_of_it",)
_ONE = (_BLOCKERS + "test_of_several_only_the_one_is_named_that_is_full",)
_FLUSH = (_BLOCKERS + "test_a_flush_names_who_has_not_read_everything",)

MUTANTS = [
    Mutant(
        "any token is as good as the right one",
        "web/server.py",
        'if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()) and',
        "if not token and",
        (_WEB + "test_every_path_but_the_static_files_needs_the_token",),
    ),
    Mutant(
        "a page that has its name resolve to this machine is answered",
        "web/server.py",
        "not in _OWN_NAMES:",
        "is None:",
        (_WEB + "test_no_other_name_is_answered",),
    ),
    Mutant(
        "pages of other sites are answered",
        "web/server.py",
        "if origin is not None and",
        "if origin is None and",
        (_WEB + "test_pages_of_other_sites_are_not_answered",),
    ),
    Mutant(
        "a failure tells the token",
        "web/server.py",
        "{request.url.path}: {type(error)",
        "{request.url}: {type(error)",
        (_SERVER + "test_a_failure_is_answered_and_logged_in_one_line_without_the_token",),
    ),
    Mutant(
        "the page is in its own graph",
        "web/graph.py",
        "if row.pid == without}",
        "if row.pid == 0}",
        ("unit/test_web_graph.py::test_the_page_is_left_out_with_all_that_it_sends_and_selects",),
    ),
    Mutant(
        "the page keeps paths of any length",
        "web/model.py",
        "path[:PATH_BYTES].decode",
        "path.decode",
        ("unit/test_web_model.py::test_only_the_beginning_of_a_long_path_is_kept",),
    ),
    Mutant(
        "the latest topics to change come first",
        "web/viewer.py",
        "self._pending.update(dict.fromkeys(changed))",
        "self._pending = dict.fromkeys([*changed, *self._pending])",
        ("unit/test_web_model.py::test_of_many_topics_each_gets_its_turn",),
    ),
    Mutant(
        "topics are never forgotten",
        "web/model.py",
        "if len(self._topics) >= TOPICS_KEPT:",
        "if False:",
        ("unit/test_web_model.py::test_topics_that_are_silent_for_longest_are_forgotten",),
    ),
    Mutant(
        "a new origin is not told",
        "roster/members.py",
        "self._origins = [*self._origins, origin][-_ORIGINS_SHOWN:]",
        "pass",
        (_PEERS + "test_the_origin_of_an_event_tells_the_member_that_sent_it",),
    ),
    Mutant(
        "all origins are told, however many",
        "roster/members.py",
        "origin][-_ORIGINS_SHOWN:]",
        "origin]",
        (_PEERS + "test_a_new_origin_is_told_before_events_bear_it",),
    ),
    Mutant(
        "latest is shown as drop",
        "roster/peers.py",
        "overflow or entry.overflow, []",
        "entry.overflow, []",
        (_PEERS + "test_channels_of_one_ingress_are_told_apart_by_their_overflow",),
    ),
    Mutant(
        "an entry takes more room for patterns than anybody reads",
        "node/channel_records.py",
        "size <= _PATTERN_BYTES_SHOWN",
        "size",
        (_PEERS + "test_patterns_that_do_not_fit_into_an_entry_do_not_hide_the_rest",),
    ),
    Mutant(
        "a listing is taken as it comes",
        "roster/peers.py",
        "        if _token(path) == token:\n            break",
        "        break",
        (_PEERS + "test_a_listing_is_repeated_when_the_token_moves_meanwhile",),
    ),
    Mutant(
        "True is a process id",
        "roster/process_info.py",
        "type(pid) is int and 0 <",
        "isinstance(pid, int) and 0 <",
        (_PEERS + "test_files_of_any_content_are_listed",),
    ),
    *(
        Mutant(name, "cli/event_lines.py", old, new, ("unit/test_event_lines.py",))
        for name, old, new in (
            (
                "zbus sub fails on a time that no calendar has",
                "except (ValueError, OverflowError, OSError):",
                "except KeyError:",
            ),
            (
                "an event without a time is shown at the epoch",
                '"-" if seconds is None else',
                '"-" if seconds == -1 else',
            ),
            ("a line of JSON has no time", '        "time": evt.time,\n', ""),
        )
    ),
    *(
        Mutant(name, f"cli/{file}.py", old, new, (_CLI + tests,))
        for name, file, old, new, tests in (
            (
                "closed streams are left to what is opened next",
                "__init__",
                "    guard()\n",
                "",
                "streams.py::test_an_event_that_was_sent_is_a_success_whatever_is_closed",
            ),
            (
                "a stand-in is not for children",
                "standard_streams",
                "os.set_inheritable(number, True)",
                "pass",
                "streams.py::test_what_the_bus_opens_does_not_take_the_place_of_a_closed_stream",
            ),
            (
                "a notice that cannot be written is a failure",
                "options",
                "    with suppress(OSError):",
                "    with suppress():",
                "streams.py::test_a_notice_that_nobody_reads_changes_nothing",
            ),
            (
                "sub subscribes without a place to print to",
                "sub",
                "    check_stdout()\n",
                "",
                "streams.py::test_sub_prints_with_stdin_and_stderr_closed_and_else_says_why_it_cannot",
            ),
            (
                "a table is drawn however narrow the terminal",
                "peer_table",
                "if width is None or taken +",
                "if True or taken +",
                "ls.py::test_nothing_that_tells_peers_apart_is_cut_on_a_narrow_terminal",
            ),
            (
                "a pipe is as wide as a terminal",
                "ls",
                "lines(found, None)",
                "lines(found, 80)",
                "ls.py::test_a_pipe_gets_one_line_a_peer_however_long",
            ),
            (
                "names disturb the terminal",
                "peer_table",
                "{name: visible(text) or",
                "{name: text or",
                "ls.py::test_names_that_others_chose_cannot_disturb_the_terminal",
            ),
            (
                "ls does not look elsewhere",
                "nobody",
                "if other != root and is_used(bus, other)",
                "if False",
                "ls.py::test_ls_says_where_somebody_is_that_was_perhaps_meant",
            ),
        )
    ),
    *(
        Mutant(name, "sending/blockers.py", old, new, tests)
        for name, old, new, tests in (
            ("every block subscriber is named", "if blocker.full]", "]", _ONE),
            (
                "a connection is never full",
                "full = _FULL_SHARE * unread > held",
                "full = 0 * unread > held",
                _ONE,
            ),
            (
                "an id that is no prefix of a socket's name is looked for",
                "if (ident := socket_id(peer)) in by_id:",
                "if (ident := peer) in by_id:",
                _ONE,
            ),
            ("who is stopped is not told", "stopped = seen.stopped if seen else", "stopped =", _STOPPED),
            (
                "who is stopped is not named first",
                "(not blocker.full, not blocker.stopped,",
                "(not blocker.full,",
                (_BLOCKERS + "test_those_that_are_stopped_come_first_and_the_first_few_are_named",),
            ),
            (
                "nobody is named where nothing proves it",
                "if blocker.unread] or every",
                "if blocker.unread]",
                (_BLOCKERS + "test_where_nothing_proves_it_all_are_named_that_it_may_be",),
            ),
            (
                "a flush names everybody",
                "_inspect(now.directory, now.every) if blocker.unread]",
                "_inspect(now.directory, now.every)]",
                _FLUSH,
            ),
            (
                "names are taken as they are",
                "return visible(text if len(text)",
                "return (text if len(text)",
                (_BLOCKERS + "test_what_others_chose_to_be_called_disturbs_no_line",),
            ),
        )
    ),
]
