"""Faults in a publisher's links: whom it connects, lets go, awaits and gives up."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_LINKS = "live/test_links.py::"
_JOINS = "live/test_joins.py::"
_STAMPS = "live/test_stamps.py::"
_EPOCH = (_LINKS + "test_a_new_epoch_is_awaited_whether_the_last_was_given_up_or_not",)
_BLOCKERS = "live/test_blockers.py::"
_JOINING = ("unit/test_join_wait.py",)

MUTANTS = [
    Mutant(
        "fillers go to ingresses that do not get the topic",
        "sending/fillers.py",
        "            if topic.startswith(self._prefixes_of(link))\n",
        "",
        (
            "unit/test_fillers.py",
            _BLOCKERS + "test_large_events_of_other_topics_leave_the_queue_of_a_resting_subscriber_empty",
        ),
    ),
    Mutant(
        "an entry that shows a part of its patterns is taken for the whole",
        "sending/fillers.py",
        "if 0 < len(found) == about.channels else",
        "if found else",
        ("unit/test_fillers.py",),
    ),
    Mutant(
        "a notice waits for room in every queue",
        "sending/backlog.py",
        "            with suppress(*WOULD_BLOCK):\n                block(notice, zmq.NOBLOCK)\n",
        "            block(notice)\n",
        (_BLOCKERS + "test_a_full_queue_does_not_hold_up_large_events_of_other_topics",),
    ),
    Mutant(
        "the token is not compared again once settled",
        "sending/links.py",
        "                if self._roster.token[0] == token:\n                    self.settled",
        "                if token:\n                    self.settled",
        (_STAMPS + "test_whoever_joins_while_a_publisher_settles_gets_the_next_event_of_a_topic_in_use",),
    ),
    Mutant(
        "the time of a settling is that of its end",
        "sending/links.py",
        "self.settled = asof",
        "self.settled = clock()",
        (_STAMPS + "test_the_time_of_a_settling_is_from_before_its_token_was_read",),
    ),
    Mutant(
        "the time of a settling is taken after the token",
        "sending/links.py",
        "            asof = clock()\n            token = self._roster.token[0]\n",
        "            token = self._roster.token[0]\n            asof = clock()\n",
        (_STAMPS + "test_the_time_of_a_settling_is_from_before_its_token_was_read",),
    ),
    Mutant(
        "the token is read after the listing",
        "sending/links.py",
        "                self._list()\n                self._listed = token\n",
        "                self._list()\n                self._listed = token = self._roster.token[0]\n",
        (_STAMPS + "test_whoever_joins_while_a_publisher_settles_gets_the_next_event_of_a_topic_in_use",),
    ),
    Mutant(
        "a vanished link is not disconnected",
        "sending/links.py",
        "            link.lane.socket.disconnect(link.endpoint)",
        "            pass",
        (_LINKS + "test_whoever_leaves_the_roster_is_let_go_though_it_listens_on",),
    ),
    Mutant(
        "a vanished link is kept",
        "sending/links.py",
        "            self._forget(self._links.pop(ident))",
        "            pass",
        (
            _JOINS + "test_a_block_peer_that_has_not_joined_counts_as_full",
            _LINKS + "test_whoever_leaves_the_roster_is_let_go_though_it_listens_on",
        ),
    ),
    Mutant(
        "a vanished link is still awaited",
        "sending/links.py",
        "                self._awaited.pop(ident, None)\n",
        "",
        (_JOINS + "test_a_peer_that_leaves_while_it_is_awaited_costs_no_timeout",),
    ),
    Mutant(
        "a new epoch is not awaited",
        "sending/links.py",
        "                    self._expect(link, entry)\n            elif",
        "                    pass\n            elif",
        _EPOCH,
    ),
    Mutant(
        "a new epoch has what time the last has left",
        "sending/sockets.py",
        "        self.wait = JoinWait(self.path, time.monotonic())",
        "        self.wait = getattr(self, 'wait', None) or JoinWait(self.path, time.monotonic())",
        _EPOCH,
    ),
    Mutant(
        "an older sentinel lowers what was shown",
        "sending/links.py",
        "link.shown = max(link.shown, epoch)",
        "link.shown = epoch",
        (_LINKS + "test_an_older_sentinel_that_comes_later_takes_nothing_back",),
    ),
    Mutant(
        "only the sentinel that is awaited counts",
        "sending/links.py",
        "link.shown = max(link.shown, epoch)",
        "link.shown = epoch if epoch == link.entry.epoch else link.shown",
        (_LINKS + "test_a_subscriber_that_shows_more_than_it_has_announced_is_not_awaited_again",),
    ),
    Mutant(
        "the end of any sentinel is that of the connection",
        "sending/links.py",
        "        elif epoch == link.shown:",
        "        elif epoch:",
        (_LINKS + "test_an_older_sentinel_that_comes_later_takes_nothing_back",),
    ),
    Mutant(
        "the end of a connection is not noticed",
        "sending/links.py",
        "            self._expect(link, link.entry)\n",
        "            pass\n",
        (_LINKS + "test_the_end_of_the_last_sentinel_is_that_of_the_connection",),
    ),
    Mutant(
        "closing waits for those who never answered",
        "sending/links.py",
        " if link.shown or link.unread is not None\n",
        "\n",
        ("live/test_late_joiners.py::test_closing_does_not_wait_for_a_listener_that_never_answered",),
    ),
    Mutant(
        "any number is taken for an epoch",
        "protocol/sentinels.py",
        "([1-9][0-9]{0,17})",
        "([1-9][0-9]*)",
        (_LINKS + "test_what_is_no_sentinel_is_passed_over",),
    ),
    Mutant(
        "one that has answered is enough",
        "sending/links.py",
        "            if not self._awaited:\n",
        "            if len(self._awaited) < 2 <= len(self._links):\n",
        (_LINKS + "test_two_subscribers_are_both_awaited",),
    ),
    Mutant(
        "nobody is awaited",
        "sending/links.py",
        "        if link.shown < link.entry.epoch and",
        "        if link.shown > link.entry.epoch and",
        (_LINKS + "test_two_subscribers_are_both_awaited",),
    ),
    Mutant(
        "who was given up is not counted",
        "sending/links.py",
        "        self._gave_up()\n",
        "",
        (_JOINS + "test_a_mute_peer_is_awaited_once_counted_and_then_left_behind",),
    ),
    Mutant(
        "who is dead is awaited all the same",
        "sending/links.py",
        "            if not self._roster.alive(link.entry.id):\n",
        "            if False:\n",
        (_JOINS + "test_a_peer_that_is_killed_while_it_is_awaited_costs_no_timeout",),
    ),
    Mutant(
        "the block lane has the full capacity",
        "sending/sockets.py",
        "min(capacity, _BLOCKING_EVENTS) if blocking else capacity",
        "capacity",
        (
            "live/test_queues.py::test_a_publisher_queues_a_thousand_events_for_a_block_subscriber_and_not_its_whole_capacity",
        ),
    ),
    Mutant(
        "the block lane has always a thousand",
        "sending/sockets.py",
        "min(capacity, _BLOCKING_EVENTS) if blocking",
        "_BLOCKING_EVENTS if blocking",
        ("live/test_queues.py::test_each_queue_on_the_way_to_a_block_subscriber_has_its_capacity",),
    ),
    Mutant(
        "the block lane drops",
        "sending/sockets.py",
        "        self.socket.setsockopt(zmq.XPUB_NODROP, 1)\n        self.socket.setsockopt(zmq.IMMEDIATE",
        "        self.socket.setsockopt(zmq.IMMEDIATE",
        (
            "live/test_queues.py::test_what_a_full_subscriber_refuses_takes_no_number",
            "live/test_overflow.py::test_block_loses_nothing",
        ),
    ),
    Mutant(
        "the drop lane waits",
        "sending/links.py",
        "self._timeout_ms if blocking else 0",
        "-1",
        ("live/test_overflow.py::test_a_stopped_reader_process_loses_exactly_what_it_reports",),
    ),
    Mutant(
        "what was sent is not written when a publisher closes",
        "sending/links.py",
        "linger=milliseconds(max(0.0, deadline - time.monotonic()))",
        "linger=0",
        (
            "live/test_overflow.py::test_a_closing_publisher_hands_over_what_a_full_subscriber_has_no_room_for",
        ),
    ),
    *(
        Mutant(name, "sending/join_wait.py", old, new, _JOINING)
        for name, old, new in (
            ("patience is never spent", "            self._used_up_at = now\n", "            pass\n"),
            (
                "patience does not come back",
                "now < self._used_up_at + _SHORT_FOR_SECONDS else",
                "self._used_up_at >= 0 else",
            ),
            (
                "a moment may be longer than the timeout",
                "min(_SHORT_SECONDS, join_timeout)",
                "_SHORT_SECONDS",
            ),
            ("there is no end to waiting", "or now >= self._first + MAX_TIMEOUTS * timeout:", "or False:"),
            (
                "who is stopped is awaited as who is slow",
                "if self.stopped or timeout == 0 or",
                "if timeout == 0 or",
            ),
            (
                "who waits for a CPU is given up",
                "if self._busy <= _BUSY_SHARE * self._checks and busy",
                "if busy",
            ),
            ("a publisher that waits for a CPU gives up", "and busy <= _BUSY_SHARE * checks:", "and True:"),
            ("that a peer waits for a CPU is not seen", "self._busy += bool(", "bool("),
        )
    ),
]
