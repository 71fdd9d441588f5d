"""Peers as lines of text, whatever they are called and however narrow the terminal is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

import zbus
from zbus.cli.peer_table import lines

ID = st.text("0123456789abcdef", min_size=8, max_size=32)
TEXT = st.text(min_size=1, max_size=30)
PEERS = st.builds(
    zbus.Peer,
    process=TEXT,
    pid=st.integers(0, 2**31 - 1),
    language=TEXT,
    role=st.sampled_from(["member", "subscriber"]),
    overflow=st.sampled_from(["", "drop", "block", "latest"]),
    patterns=st.lists(st.tuples(TEXT, TEXT), max_size=4),
    alive=st.booleans(),
    counters=st.just({}),
    id=ID,
    user=TEXT,
    origins=st.lists(ID, max_size=2),
    member=ID,
)
PEER = zbus.Peer("a.py", 7, "c", "subscriber", "drop", [("\u0301", "*")], True, {}, "0" * 16, "me", [], "")


@given(st.lists(PEERS, min_size=1, max_size=4), st.none() | st.integers(1, 250))
@example([PEER], 100)
@example([PEER._replace(patterns=[("日本語" * 9, "*")])], 1)
def test_each_peer_is_there_with_its_process_id_and_its_id_whole(
    peers: list[zbus.Peer], width: int | None
) -> None:
    shown = [*lines(peers, width)]
    for peer in peers:
        own = [line for line, whose in shown if whose is peer]
        assert any(peer.id in line for line in own)
        assert any((str(peer.pid) if peer.pid else "?") in line for line in own)
    assert all(letter.isprintable() for line, _ in shown for letter in line)


@given(st.lists(PEERS, min_size=1, max_size=4))
def test_for_a_program_each_peer_is_one_line_below_a_header(peers: list[zbus.Peer]) -> None:
    assert [peer for _, peer in lines(peers, None)] == [None, *peers]


@pytest.mark.parametrize("width", range(18, 250, 7))
def test_a_table_is_never_wider_than_the_terminal(width: int) -> None:
    peer = PEER._replace(patterns=[("orders.**", "order.*"), ("x" * 70, "日本語" * 20)])
    shown = [*lines([peer, PEER], width)]
    if shown[0][1] is None:
        assert max(cell_len(line) for line, _ in shown) <= width
    else:
        assert width < 90  # one fact a line
