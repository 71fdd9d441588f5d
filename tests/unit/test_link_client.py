"""The shorter way for headers makes the same of them as nats-py does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client

from zbus.links import client
from zbus.links.client import LinkClient
from zbus.links.headers import encode
from zbus.protocol.relayed import Relayed

EVENT = Relayed(
    "5f0c9a1b2c3d4e5f", "orders", "created", 7, "a" * 16, b"/orders/1", b"1764192207000001", b"{}"
)

text = st.text(st.characters(codec="utf-8", min_codepoint=0x20), max_size=5)
odd = ["a: b", "a:b", "a:  b", " a: b", "a: b ", "a:b: c", "a b: c", "a:\tb", "a: b\n", "a", ""]
line = st.one_of(st.builds("{}: {}".format, text, text), st.sampled_from(odd))


def parsed(kind: type[Client], block: bytes) -> Any:
    return asyncio.run(kind()._process_headers(block))  # type: ignore[no-untyped-call]


def commands(kind: type[Client], headers: dict[str, str] | None) -> list[bytes]:
    """Return what a client sends for a message."""
    sent: list[bytes] = []

    class Recording(kind):  # type: ignore[misc, valid-type]
        async def _send_command(self, cmd: bytes, priority: bool = False) -> None:  # noqa: ARG002
            sent.append(cmd)

    recording = Recording()
    asyncio.run(recording._send_publish("zbus.a", "_INBOX.1", b'{"a":1}', 7, headers))
    assert recording.stats["out_msgs"] == 1
    assert recording.stats["out_bytes"] == 7
    return sent


def test_the_installed_nats_py_is_built_as_the_shorter_way_needs() -> None:
    assert LinkClient is not Client


@pytest.mark.parametrize("name", client._METHODS)
def test_a_nats_py_that_is_built_in_another_way_is_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client._is_known()
    monkeypatch.setattr(Client, name, lambda: None)
    assert not client._is_known()
    monkeypatch.delattr(Client, name)
    assert not client._is_known()


@example([": "], "\r\nx\r\n")
@given(st.lists(line, max_size=4), st.sampled_from(["\r\n\r\n", "\r\n", "", "\r\nx\r\n"]))
def test_headers_that_arrive_are_read_as_nats_py_reads_them(lines: list[str], end: str) -> None:
    block = ("NATS/1.0\r\n" + "\r\n".join(lines) + end).encode()
    assert parsed(LinkClient, block) == parsed(Client, block)


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 10\r\nNats-Last-Stream: 10\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0\r\na: \xff\r\n\r\n",
        b"",
        None,
    ],
)
def test_what_the_server_says_in_headers_is_left_to_nats_py(block: Any) -> None:
    assert parsed(LinkClient, block) == parsed(Client, block)


@pytest.mark.parametrize(
    "headers",
    [
        encode(EVENT)[0],
        encode(EVENT._replace(path='/größe 100%\r\n"x"'.encode(), kind="a:b c", body=b"\0x"))[0],
        {"a": "b\r\nPUB x 0\r\n"},
        {"a": "b\rc\nd"},
        {"a": "b\n", "c": "d\r"},
        {},
        None,
    ],
)
def test_headers_are_sent_as_nats_py_sends_them(headers: dict[str, str] | None) -> None:
    assert commands(LinkClient, headers) == commands(Client, headers)


def test_the_headers_of_an_event_take_the_shorter_way(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = encode(EVENT)[0]
    (command,) = commands(Client, headers)
    block = command.partition(b"\r\n")[2].partition(b"{")[0]

    async def longer(*_: object) -> None:
        raise AssertionError("nats-py was asked")

    monkeypatch.setattr(Client, "_process_headers", longer)
    monkeypatch.setattr(Client, "_send_publish", longer)
    assert commands(LinkClient, headers) == [command]
    assert parsed(LinkClient, block) == headers
