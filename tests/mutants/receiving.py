"""Faults between the sockets and the reader: forwarder, ingress, inlet, inbox, channel, `latest`."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_MEMORY = "live/test_memory.py::"
_QUEUES = "live/test_queues.py::"
_EXACT = (_QUEUES + "test_a_channel_holds_as_many_events_as_its_capacity_says",)
_EACH = (_QUEUES + "test_each_queue_on_the_way_to_a_block_subscriber_has_its_capacity",)

_STEPS = ("live/test_steps.py::test_a_receive_that_is_interrupted_anywhere_leaves_the_channel_to_others",)
_WAITS = "live/test_waits.py::"
_COUNTED = "live/test_counters.py::"

MUTANTS = [
    Mutant(
        "the forwarder's queue of an ingress is twice as long",
        "forwarder.py",
        "min(_LINK_EVENTS, capacity)",
        "2 * min(_LINK_EVENTS, capacity)",
        _EACH,
    ),
    Mutant(
        "the forwarder's queue of an ingress is always a thousand",
        "forwarder.py",
        "min(_LINK_EVENTS, capacity)",
        "_LINK_EVENTS",
        _EACH,
    ),
    Mutant(
        "the forwarder's queue towards a channel has libzmq's default",
        "forwarder.py",
        "channels.sndhwm = 1 ",
        "channels.sndhwm = 1000 ",
        _EXACT,
    ),
    Mutant(
        "a channel's queue is twice as long",
        "room.py",
        "self.capacity - _NARROW_EVENTS + 1",
        "2 * self.capacity - _NARROW_EVENTS + 1",
        _EXACT,
    ),
    Mutant(
        "a channel's queue is longer by one",
        "room.py",
        "self.capacity - _NARROW_EVENTS + 1",
        "self.capacity - _NARROW_EVENTS + 2",
        _EXACT,
    ),
    Mutant(
        "a channel of capacity 1 has an unbounded queue",
        "room.py",
        "max(1, min(self.capacity, _NARROW_EVENTS) - 1)",
        "min(self.capacity, _NARROW_EVENTS) - 1",
        _EXACT,
    ),
    Mutant(
        "a drop forwarder blocks",
        "forwarder.py",
        "zmq.XPUB_NODROP, int(blocking)",
        "zmq.XPUB_NODROP, 1",
        (*_EXACT, "live/test_overflow.py::test_drop_received_and_lost_add_up_exactly"),
    ),
    Mutant(
        "a block forwarder drops",
        "forwarder.py",
        "zmq.XPUB_NODROP, int(blocking)",
        "zmq.XPUB_NODROP, 0",
        ("live/test_overflow.py::test_block_loses_nothing",),
    ),
    Mutant(
        "latest reads ahead into a queue of as many frames as keys",
        "node.py",
        'own = wish if wish.overflow != "latest" else self',
        "own = wish",
        (_QUEUES + "test_the_capacity_of_latest_is_of_keys_and_not_of_what_its_thread_has_yet_to_read",),
    ),
    Mutant(
        "a channel's own capacity is that of its bus",
        "node.py",
        'own = wish if wish.overflow != "latest" else self',
        "own = self",
        _EXACT,
    ),
    Mutant(
        "a closing channel loses the last frame it holds",
        "inlet.py",
        "range(self._room.capacity + 1)",
        "range(self._room.capacity - 1)",
        (_QUEUES + "test_a_full_channel_that_closes_keeps_all_that_it_holds",),
    ),
    Mutant(
        "a closing channel of capacity 1 loses the second frame",
        "inlet.py",
        "range(self._room.capacity + 1)",
        "range(self._room.capacity)",
        (_QUEUES + "test_a_full_channel_that_closes_keeps_all_that_it_holds",),
    ),
    Mutant(
        "select keeps its locks after an interrupt",
        "channel.py",
        "        except BaseException:  # see `locks`\n            _let_go(each)\n            raise",
        "        except BaseException:\n            raise",
        _STEPS,
    ),
    Mutant(
        "select keeps its locks after an interrupt of the wait",
        "channel.py",
        "            finally:\n                _let_go(each)\n        except BaseException:",
        "            finally:\n                _let_go([])\n        except OSError:",
        _STEPS,
    ),
    Mutant(
        "receive keeps its lock after an interrupt",
        "channel.py",
        "        except BaseException:  # see `locks`\n            lock.let_go()\n            raise",
        "        except BaseException:\n            raise",
        _STEPS,
    ),
    Mutant(
        "a wait is in seconds where libzmq takes milliseconds",
        "channel.py",
        "min(WAIT_MS, milliseconds(_left(deadline)))",
        "int(min(WAIT_MS, _left(deadline)))",
        (_WAITS + "test_a_wait_costs_no_cpu_time",),
    ),
    Mutant(
        "a wait is in milliseconds and takes seconds",
        "channel.py",
        "min(WAIT_MS, milliseconds(_left(deadline)))",
        "min(WAIT_MS, milliseconds(1000 * _left(deadline)))",
        (_WAITS + "test_a_wait_ends_in_time",),
    ),
    Mutant(
        "select waits in seconds where libzmq takes milliseconds",
        "channel.py",
        "longest = milliseconds(min(seconds,",
        "longest = int(min(seconds,",
        (_WAITS + "test_a_wait_costs_no_cpu_time",),
    ),
    Mutant(
        "select always waits for a second",
        "channel.py",
        "milliseconds(min(seconds, ",
        "milliseconds(max(seconds, ",
        (_WAITS + "test_a_wait_ends_in_time",),
    ),
    Mutant(
        "select does not ask again for a channel that another thread has",
        "channel.py",
        "_SHARED_SECONDS if held else WAIT_MS / 1000",
        "WAIT_MS / 1000",
        (_WAITS + "test_select_asks_again_for_a_channel_that_another_thread_held",),
    ),
    Mutant(
        "what was lost is not written to the member file",
        "decoder.py",
        '        self._count("lost", events)\n',
        "",
        (_COUNTED + "test_what_goes_wrong_is_counted_for_others_to_read",),
    ),
    Mutant(
        "malformed frames are not written to the member file",
        "decoder.py",
        '        self._count("malformed", 1)\n',
        "",
        (_COUNTED + "test_what_goes_wrong_is_counted_for_others_to_read",),
    ),
    Mutant(
        "data that does not fit is not written to the member file",
        "decoder.py",
        '            self._count("mismatched", 1)\n',
        "",
        (_COUNTED + "test_what_goes_wrong_is_counted_for_others_to_read",),
    ),
    Mutant(
        "a gap counts as one event in the member file",
        "decoder.py",
        'self._count("lost", events)',
        'self._count("lost", 1)',
        (_COUNTED + "test_what_goes_wrong_is_counted_for_others_to_read",),
    ),
    Mutant(
        "what latest forgets is not lost",
        "latest.py",
        "        self._decoder.lose(1)\n",
        "",
        ("live/test_twins.py::test_latest_with_more_keys_than_capacity_counts_what_it_forgets",),
    ),
    Mutant(
        "latest keeps one key more",
        "latest.py",
        "len(self._events) == self._capacity",
        "len(self._events) == self._capacity + 1",
        ("live/test_twins.py::test_latest_with_more_keys_than_capacity_counts_what_it_forgets",),
    ),
    Mutant(
        "latest forgets the newest key",
        "latest.py",
        "self._bytes -= self._events.popitem(last=False)",
        "self._bytes -= self._events.popitem(last=True)",
        ("live/test_twins.py::test_latest_with_more_keys_than_capacity_counts_what_it_forgets",),
    ),
    Mutant(
        "latest does not move a key that changes to the end",
        "latest.py",
        "            self._events.move_to_end(key)",
        "            pass",
        ("live/test_twins.py::test_latest_keeps_the_order_in_which_keys_changed_last",),
    ),
    Mutant(
        "the bell of latest rings on after the last event",
        "latest.py",
        "if not self._events and not self._ended:",
        "if self._ended:",
        (_WAITS + "test_a_wait_costs_no_cpu_time",),
    ),
    Mutant(
        "warnings of a channel have no limit of rate",
        "inbox.py",
        "if now - self._logged < _LOG_INTERVAL:",
        "if False:",
        ("live/test_overflow.py::test_gaps_are_logged_at_a_limited_rate",),
    ),
    Mutant(
        "malformed frames are told again and again",
        "inbox.py",
        "            self._told_malformed += count\n",
        "",
        (_COUNTED + "test_a_malformed_frame_is_told_once",),
    ),
    Mutant(
        "an exception of on_gap costs an event",
        "inbox.py",
        "        except Exception as error:  # must",
        "        except AssertionError as error:  # must",
        (_COUNTED + "test_a_callback_that_raises_costs_no_event",),
    ),
    Mutant(
        "of a channel that is dropped nobody closes the socket",
        "inbox.py",
        "        if not self._inlet.closing:",
        "        if self._inlet.closing:",
        ("live/test_lifetimes.py::test_a_subscription_that_is_dropped_closes_itself",),
    ),
    Mutant(
        "a queue of large events is never narrowed",
        "room.py",
        "return not self.narrow and self.pending >",
        "return self.pending < 0 and self.pending >",
        (_MEMORY + "test_a_channel_that_is_not_read_keeps_about_its_bytes_and_counts_the_rest",),
    ),
    Mutant(
        "a queue that was narrowed stays so",
        "room.py",
        "if self.narrow and not self._waiting():",
        "if self.narrow and self.capacity < 0:",
        (_MEMORY + "test_a_channel_that_is_not_read_keeps_about_its_bytes_and_counts_the_rest",),
    ),
    Mutant(
        "latest counts no bytes",
        "latest.py",
        "while self._bytes > self._capacity_bytes and",
        "while self._bytes < 0 and",
        (_MEMORY + "test_latest_forgets_the_oldest_keys_beyond_its_bytes",),
    ),
    Mutant(
        "a publisher announces no large events",
        "backlog.py",
        "if topic.announced < size:",
        "if topic.announced > size:",
        (_MEMORY + "test_a_channel_that_is_not_read_keeps_about_its_bytes_and_counts_the_rest",),
    ),
    Mutant(
        "large events take one place with a block subscriber",
        "lanes.py",
        "return min(size // self._share, _MOST_PADS) if self.blocking else 0",
        "return 0",
        (_MEMORY + "test_block_holds_its_publisher_before_it_holds_twice_its_bytes",),
    ),
    Mutant(
        "memory is never given back",
        "memory.py",
        "if _moved < _WORTH_BYTES or",
        "if _moved >= 0 or",
        (_MEMORY + "test_memory_is_given_back_once_much_came_by_and_nothing_more",),
    ),
    Mutant(
        "an idle publisher keeps what waited for a reader that is gone",
        "node.py",
        "        self.publisher.hear()\n",
        "",
        (_MEMORY + "test_an_idle_publisher_frees_what_waits_for_a_reader_that_was_killed",),
    ),
]
