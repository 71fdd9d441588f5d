"""Faults in the options of sockets, in the ends of buses and processes, and in fork."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_FORK = "live/test_fork.py::"
_OVERFLOW = "live/test_overflow.py::"
_LIFETIMES = "live/test_lifetimes.py::"
_TOPICS = "live/test_many_topics.py::"

MUTANTS = [
    Mutant(
        "the forwarder's front has libzmq's own limit of subscriptions",
        "receiving/forwarder.py",
        "        publishers.sndhwm = 0 ",
        "        publishers.sndhwm = 1000 ",
        (_TOPICS + "test_a_publisher_that_comes_later_gets_thousands_of_subscriptions",),
    ),
    Mutant(
        "channels have libzmq's own limit of subscriptions",
        "receiving/ingress.py",
        "        socket.sndhwm = 0 ",
        "        socket.sndhwm = 1000 ",
        (_TOPICS + "test_a_channel_passes_thousands_of_subscriptions_to_its_forwarder",),
    ),
    Mutant(
        "frames from others may have any size",
        "receiving/forwarder.py",
        "        publishers.setsockopt(zmq.MAXMSGSIZE, max_event_bytes)\n",
        "",
        ("live/test_foreign.py::test_an_oversized_foreign_frame_is_cut_and_everybody_else_goes_on",),
    ),
    Mutant(
        "locks are not renewed by fork",
        "runtime/locks.py",
        "            lock._at_fork_reinit()",
        "            pass",
        (_FORK + "test_every_lock_is_free_in_the_child_but_those_of_the_thread_that_forks",),
    ),
    Mutant(
        "new locks are not known to fork",
        "runtime/locks.py",
        "        _locks.add(self)\n",
        "",
        (_FORK + "test_every_lock_is_free_in_the_child_but_those_of_the_thread_that_forks",),
    ),
    Mutant(
        "a child keeps the member file, and its lock, that another thread had in hand",
        "roster/members.py",
        '.split(".")[0] in _ids:',
        ".split('.')[0] in ():",
        (_FORK + "test_a_member_file_that_another_thread_is_about_to_make_is_not_kept_by_the_child",),
    ),
    Mutant(
        "a child keeps its parent's sockets",
        "node/node.py",
        "steps = self._member.after_fork_in_child, self._roster.after_fork_in_child, self._disconnect",
        "steps = self._member.after_fork_in_child, self._roster.after_fork_in_child",
        (_FORK + "test_a_parent_that_is_killed_is_not_kept_alive_by_its_child",),
    ),
    Mutant(
        "a child sends on its parent's sockets",
        "node/node.py",
        "(partial(self.publisher.after_fork_in_child, self.closed), *steps)",
        "steps",
        (_FORK + "test_every_use_of_the_parents_bus_is_refused_at_once",),
    ),
    Mutant(
        "a child receives from its parent's channels",
        "node/channel_records.py",
        "                record.source.after_fork_in_child(reason)",
        "                pass",
        (_FORK + "test_every_use_of_the_parents_bus_is_refused_at_once",),
    ),
    Mutant(
        "a closing publisher does not wait until what it sent is read",
        "node/node.py",
        "            connections.wait(deadline)\n",
        "",
        (_OVERFLOW + "test_a_closing_publisher_hands_over_what_a_full_subscriber_has_no_room_for",),
    ),
    Mutant(
        "a closing publisher waits without a limit",
        "node/node.py",
        "            connections.wait(deadline)\n",
        "            connections.wait(deadline + 1e6)\n",
        (_OVERFLOW + "test_linger_bounds_the_time_that_close_takes",),
    ),
    Mutant(
        "a bus that is closed stays on the list of those to close",
        "node/node.py",
        "        unregister(self)\n",
        "",
        (_LIFETIMES + "test_300_cycles_leave_threads_descriptors_and_files_as_they_were",),
    ),
    Mutant(
        "a block channel that closes keeps its ingress",
        "node/channels.py",
        "if self._closing is None and own:",
        "if self._closing is not None and own:",
        (_LIFETIMES + "test_300_cycles_leave_threads_descriptors_and_files_as_they_were",),
    ),
    Mutant(
        "each drop channel has an ingress of its own",
        "node/channels.py",
        "        if not OVERFLOW_POLICIES[request.overflow].blocking:\n            self._shared = ingress\n",
        "",
        ("live/test_bus.py::test_peers_tell_who_is_on_the_bus",),
    ),
    Mutant(
        "two block channels share an ingress",
        "node/channels.py",
        "if self._shared is not None and not blocking:",
        "if self._shared is not None:",
        ("live/test_bus.py::test_peers_tell_who_is_on_the_bus",),
    ),
    Mutant(
        "one subscription more than a bus may have",
        "node/channel_records.py",
        "if len(self) >= _MAX_CHANNELS:",
        "if len(self) > _MAX_CHANNELS:",
        ("live/test_bad_input.py::test_too_many_subscriptions_are_refused_until_some_are_closed",),
    ),
    Mutant(
        "a join is noted after its token was written",
        "node/channels.py",
        "decoder.joined(announced_at, clock())",
        "decoder.joined(clock(), clock())",
        ("live/test_joins.py::test_what_is_lost_as_soon_as_the_token_is_written_is_counted",),
    ),
    Mutant(
        "a closing channel does not wake who waits",
        "receiving/queue.py",
        "        self._wake()\n        if self.lock.held():",
        "        if self.lock.held():",
        (_LIFETIMES + "test_a_closed_channel_wakes_its_receiver_at_once",),
    ),
    Mutant(
        "a handler that closes what its thread receives from takes the socket away",
        "receiving/queue.py",
        "        if self.lock.held():\n            return  # this is a signal handler",
        "        if False:\n            return  # this is a signal handler",
        (_LIFETIMES + "test_a_signal_handler_may_close_what_its_thread_waits_for",),
    ),
    Mutant(
        "the probe may see the sentinel first",
        "receiving/ingress.py",
        "            self._await(barrier)\n",
        "",
        (
            "live/test_ingress.py::test_a_channel_is_connected_only_when_its_prefixes_have_passed_the_forwarder",
        ),
    ),
    Mutant(
        "the sentinel is not awaited by who joins",
        "receiving/ingress.py",
        "        self._await(sentinel(self.id, entry.epoch))\n",
        "",
        ("live/test_ingress.py::test_an_epoch_is_announced_only_when_its_sentinel_has_passed_the_forwarder",),
    ),
    Mutant(
        "the channel of a drop ingress holds its sentinel",
        "receiving/ingress.py",
        "        if self._blocking:\n            # The only",
        "        if True:\n            # The only",
        ("live/test_joins.py::test_a_channel_that_closes_takes_no_sentinel_along",),
    ),
    Mutant(
        "the sentinel of the last epoch is kept",
        "receiving/ingress.py",
        "            self._marker.setsockopt(zmq.UNSUBSCRIBE, sentinel(self.id, epoch))\n",
        "            pass\n",
        ("live/test_ingress.py::test_the_sentinel_of_the_last_epoch_goes_when_the_next_is_announced",),
    ),
]
