"""Faults between the sockets and the reader: forwarder, ingress, inlet, inbox, channel, `latest`."""

from __future__ import annotations

from .mutant import Mutant

__all__ = ["MUTANTS"]

_QUEUES = "live/test_queues.py::"
_EXACT = (_QUEUES + "test_a_channel_holds_as_many_events_as_its_capacity_says",)
_EACH = (_QUEUES + "test_each_queue_on_the_way_to_a_block_subscriber_has_its_capacity",)

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
        "ingress.py",
        "max(1, capacity - 1)",
        "max(1, 2 * capacity - 1)",
        _EXACT,
    ),
    Mutant(
        "a channel's queue is longer by one",
        "ingress.py",
        "max(1, capacity - 1)",
        "max(1, capacity)",
        _EXACT,
    ),
    Mutant(
        "a channel of capacity 1 has an unbounded queue",
        "ingress.py",
        "max(1, capacity - 1)",
        "capacity - 1",
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
        'room = self.capacity if wish.overflow == "latest" else wish.capacity',
        "room = wish.capacity",
        (_QUEUES + "test_the_capacity_of_latest_is_of_keys_and_not_of_what_its_thread_has_yet_to_read",),
    ),
    Mutant(
        "a channel's own capacity is that of its bus",
        "node.py",
        'room = self.capacity if wish.overflow == "latest" else wish.capacity',
        "room = self.capacity",
        _EXACT,
    ),
    Mutant(
        "a closing channel loses the last frame it holds",
        "inlet.py",
        "range(self._capacity + 1)",
        "range(self._capacity - 1)",
        (_QUEUES + "test_a_full_channel_that_closes_keeps_all_that_it_holds",),
    ),
    Mutant(
        "a closing channel of capacity 1 loses the second frame",
        "inlet.py",
        "range(self._capacity + 1)",
        "range(self._capacity)",
        (_QUEUES + "test_a_full_channel_that_closes_keeps_all_that_it_holds",),
    ),
]
