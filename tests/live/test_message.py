"""A message that is sent once: libzmq says whether it has taken it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import zmq

from zbus.sending import message
from zbus.sending.message import Message

FRAMES = [b"x", b"x" * 29, b"x" * 100_000, b"\0" * 40]


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.sndhwm = other.rcvhwm = 1
        one.bind("inproc://pair")
        other.connect("inproc://pair")
        other.rcvtimeo = 30_000
        one.linger = other.linger = 0
        yield one, other


def raw(socket: zmq.Socket[bytes]) -> Any:
    """Return the method of a socket that the publisher uses."""
    return super(zmq.Socket, socket).send


def test_the_functions_of_libzmq_are_found() -> None:
    assert message._zmq_send() is not None


@pytest.mark.parametrize("found", [True, False], ids=["libzmq", "pyzmq"])
@pytest.mark.parametrize("frame", FRAMES, ids=len)
def test_a_message_is_sent_once(
    pair: Any, frame: bytes, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not found:
        monkeypatch.setattr(message, "_zmq_send", lambda: None)
    one, other = pair
    sent = Message(frame, raw(one))
    assert not sent.sent
    sent.send()
    assert sent.sent
    sent.send()
    assert other.recv() == frame
    assert not other.poll(0)


@pytest.mark.parametrize("found", [True, False], ids=["libzmq", "pyzmq"])
def test_a_message_that_finds_no_room_can_be_sent_later(
    pair: Any, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not found:
        monkeypatch.setattr(message, "_zmq_send", lambda: None)
    one, other = pair
    waiting = 0
    with pytest.raises(zmq.Again):
        while True:
            last = Message(b"x", raw(one))
            last.send()
            waiting += 1
    assert not last.sent
    for _ in range(waiting):
        other.recv()
    while not last.sent:
        one.getsockopt(zmq.EVENTS)  # the news of room has come by then
        with suppress(zmq.Again):
            last.send()
    assert other.recv() == b"x"
