"""Faults in waiting and in what a process says of itself: asyncio, locks of a send, members, descriptors."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_AIO = "live/test_aio.py::"
_WAKER = "live/test_waker.py::"
_TWINS = "live/test_twins.py::"
_SEND = ("live/test_steps.py::test_a_send_that_is_interrupted_anywhere_leaves_the_publisher_to_others",)
_COUNTED = ("live/test_counters.py::test_what_goes_wrong_is_counted_for_others_to_read",)
_TURNS = (_AIO + "test_busy_loops_of_send_and_receive_let_others_have_their_turn",)
_BUSY = (_WAKER + "test_what_nobody_receives_is_noticed_once_or_twice",)

MUTANTS = [
    Mutant(
        "a loop that receives lets nobody have a turn",
        "aio/channel.py",
        "            self._turn = TURN_EVENTS\n            await asyncio.sleep(0)",
        "            self._turn = TURN_EVENTS",
        _TURNS,
    ),
    Mutant(
        "a loop that sends lets nobody have a turn",
        "aio/bus.py",
        "        self._turn = TURN_EVENTS\n        await asyncio.sleep(0)",
        "        self._turn = TURN_EVENTS",
        _TURNS,
    ),
    Mutant(
        "a descriptor that nobody looks at keeps the loop busy",
        "aio/waker.py",
        "            self._armed = False\n            self.loop.remove_reader(self._descriptor)",
        "            pass",
        _BUSY,
    ),
    Mutant(
        "a waker that went to sleep does not wake up again",
        "aio/waker.py",
        "            self._armed = False\n            self.loop.remove_reader(self._descriptor)",
        "            self.loop.remove_reader(self._descriptor)",
        (*_BUSY, _WAKER + "test_a_waker_that_was_disarmed_wakes_the_next_who_waits"),
    ),
    Mutant(
        "a waiter that is cancelled is not forgotten",
        "aio/channel.py",
        "                self._forget(waiter)\n",
        "                pass\n",
        (_WAKER + "test_a_cancelled_iteration_leaves_no_waiter",),
    ),
    Mutant(
        "a time-out leaves its timer",
        "aio/waker.py",
        "            timer.cancel()",
        "            pass",
        (_WAKER + "test_a_wait_that_ends_early_leaves_no_timer",),
    ),
    Mutant(
        "closing wakes no task",
        "receiving/source.py",
        "waker.notify_threadsafe()\n            waker.close_soon()",
        "waker.close_soon()",
        (_TWINS + "test_close_wakes_whoever_waits",),
    ),
    Mutant(
        "a send keeps its lock after an interrupt",
        "sending/publisher.py",
        "its release short\n                self.lock.release_if_held()\n",
        "its release short\n",
        _SEND,
    ),
    Mutant(
        "a send that failed keeps its lock",
        "sending/publisher.py",
        "            return JOINING\n        finally:\n            self.lock.release_if_held()",
        "            return JOINING\n        finally:\n            pass",
        (_TWINS + "test_block_refuses_what_has_no_room_and_goes_on_when_there_is", *_SEND),
    ),
    Mutant(
        "that a thread sends is not taken back",
        "sending/publisher.py",
        "            finally:\n                self.sending = False\n            return",
        "            finally:\n                pass\n            return",
        _SEND,
    ),
    Mutant(
        "a send that timed out is not counted",
        "sending/publisher.py",
        "                self._count_timeout()\n",
        "",
        _COUNTED,
    ),
    Mutant(
        "who waits to send tries once only",
        "sending/publisher.py",
        "            if time.monotonic() >= deadline:\n                self._count_timeout()",
        "            if True:\n                self._count_timeout()",
        ("live/test_overflow.py::test_block_loses_nothing",),
    ),
    Mutant(
        "a batch has no way to be too large",
        "sending/publisher.py",
        "            raise too_large_error(len(frame), self._max)",
        "            pass",
        ("live/test_stamps.py::test_a_frame_has_the_limit_to_the_byte_whether_its_topic_is_new_or_not",),
    ),
    Mutant(
        "a counter overflows",
        "roster/members.py",
        "min(self._counts[counter] + number, 2**64 - 1)",
        "self._counts[counter] + number",
        ("live/test_counters.py::test_a_counter_stays_at_the_largest_number",),
    ),
    Mutant(
        "counters are four bytes apart",
        "roster/members.py",
        "8 * self.COUNTERS.index(counter)",
        "4 * self.COUNTERS.index(counter)",
        _COUNTED,
    ),
    Mutant(
        "every member is alive",
        "roster/peers.py",
        "alive=not unlocked(file)",
        "alive=True",
        ("live/test_counters.py::test_peers_tell_the_living_from_the_dead",),
    ),
    Mutant(
        "every subscriber is alive",
        "roster/peers.py",
        'alive = answers(path / f"{entry.id}.sock")',
        "alive = True",
        ("live/test_counters.py::test_peers_tell_the_living_from_the_dead",),
    ),
    Mutant(
        "the limit of descriptors is not raised",
        "runtime/descriptors.py",
        "            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))",
        "            pass",
        ("live/test_counters.py::test_opening_a_bus_raises_the_limit_of_descriptors",),
    ),
    Mutant(
        "a hundred descriptors do to listen",
        "runtime/descriptors.py",
        "_LOWEST_LIMIT = 128",
        "_LOWEST_LIMIT = 32",
        ("live/test_directory.py::test_very_few_descriptors_do_to_send_but_not_to_listen",),
    ),
    Mutant(
        "flush asks nobody whether it has read",
        "sending/flush.py",
        "socket_id(peer) in wanted and unread_bytes(number)]",
        "socket_id(peer) in wanted and False]",
        ("live/test_flush.py::test_a_stopped_peer_makes_it_time_out_until_it_goes_on",),
    ),
]
