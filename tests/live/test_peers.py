"""Who is on a bus, as `peers` tells it: ids, users, origins, and whatever else lies in the directory."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import zbus
from zbus import aio
from zbus.sending import streams

from .process import Spawn, directory, receive

ME = pwd.getpwuid(os.getuid()).pw_name
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["process", "pid", "language", "member", "patterns", "channels", "origins"])
TEXT = st.binary(max_size=40) | (ODD | st.dictionaries(FIELDS, ODD)).map(
    lambda value: json.dumps(value).encode()
)


@pytest.fixture
def place(zbus_dir: str) -> Path:
    """Make the directory of the default bus, in which nobody is."""
    with zbus.Bus(dir=zbus_dir) as bus:
        return directory(bus)


def alone() -> zbus.Peer:
    [peer] = zbus.peers()
    return peer


# ids, users, origins


def test_each_has_the_id_of_its_file_and_the_user_that_owns_it(bus: zbus.Bus, place: Path) -> None:
    _subs = bus.subscribe("a"), bus.subscribe("b", overflow="block")
    [member] = [peer for peer in zbus.peers() if peer.role == "member"]
    assert [path.name for path in place.glob("*.member")] == [f"{member.id}.member"]
    assert member.member == member.id
    listening = {peer.overflow: peer for peer in zbus.peers() if peer.role == "subscriber"}
    assert {f"{peer.id}.1.{overflow}" for overflow, peer in listening.items()} == {
        path.name for suffix in ("drop", "block") for path in place.glob(f"*.{suffix}")
    }
    assert {peer.member for peer in listening.values()} == {member.id}
    assert {peer.user for peer in zbus.peers()} == {ME}


def test_a_user_without_a_name_is_shown_by_number(place: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    file = place / "00000000deadbeef.member"
    file.write_bytes(bytes(128) + b"{}")
    os.chown(file, 987_654, -1)
    assert alone().user == "987654"
    file.unlink()


def test_the_origin_of_an_event_tells_the_member_that_sent_it(bus: zbus.Bus, spawn: Spawn) -> None:
    sub = bus.subscribe("a")
    worker = spawn("sender").ready()
    bus.send("a", "b", "/mine")
    mine = receive(sub)
    worker.tell("a 1")
    theirs = receive(sub)

    def sender(evt: zbus.Event) -> list[int]:
        return [peer.pid for peer in zbus.peers() if evt.origin in peer.origins]

    assert sender(mine) == [os.getpid()]
    assert sender(theirs) == [worker.pid]


def test_a_new_origin_is_told_before_events_bear_it(bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_TOPICS", 2)
    sub = bus.subscribe("a")
    for number in range(240):
        bus.send("a", f"k{number}", "/1")
        assert receive(sub).origin == alone_member().origins[-1]
    assert len(alone_member().origins) == 100


def alone_member() -> zbus.Peer:
    [member] = [peer for peer in zbus.peers() if peer.role == "member"]
    return member


def test_origins_are_shown_again_by_a_member_whose_file_was_removed(bus: zbus.Bus, place: Path) -> None:
    before = alone_member()
    (place / f"{before.id}.member").unlink()
    _sub = bus.subscribe("a")  # looks whether it is still found
    assert alone_member() == before


async def test_the_origin_of_an_asyncio_bus_is_told_too(zbus_dir: str) -> None:
    async with aio.Bus(dir=zbus_dir) as bus:
        sub = await bus.subscribe("a")
        await bus.send("a", "b", "/c")
        evt, _ = await sub.channel().receive(timeout=30)
        assert evt is not None
        assert evt.origin in alone_member().origins


# overflow


def test_channels_of_one_ingress_are_told_apart_by_their_overflow(bus: zbus.Bus) -> None:
    _subs = (
        bus.subscribe("a", "x"),
        bus.subscribe("b", overflow="latest"),
        bus.subscribe("c"),
        bus.subscribe("d", overflow="block"),
    )
    found = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    assert [(peer.overflow, peer.patterns) for peer in found] == [
        ("block", [("d", "*")]),
        ("drop", [("a", "x"), ("c", "*")]),
        ("latest", [("b", "*")]),
    ]
    assert found[1].id == found[2].id != found[0].id


def test_patterns_that_do_not_fit_into_an_entry_do_not_hide_the_rest(bus: zbus.Bus) -> None:
    _subs = [bus.subscribe(f"{number}" + "x" * 10_000) for number in range(10)]
    [peer] = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    assert peer.pid == os.getpid()
    assert [system[0] for system, _ in peer.patterns] == ["0", "1", "2"]


# odd files


def test_where_nobody_is_the_list_tells_where_it_looked(zbus_dir: str) -> None:
    assert zbus.peers().path == Path(zbus_dir, "v1", "default")
    assert zbus.peers() == []
    assert os.listdir(zbus_dir) == []


def test_looking_changes_nothing(place: Path) -> None:
    """Nobody is on the bus who would."""
    odd = [place / f"00000000deadbeef.{end}" for end in ("member", "7.drop", "sock")]
    for path in odd:
        path.write_bytes(b"")
    (place / "token").unlink()

    def state() -> dict[str, tuple[int, int, int]]:
        infos = {path.name: path.stat() for path in place.iterdir()}
        return {name: (info.st_ino, info.st_mtime_ns, info.st_size) for name, info in infos.items()}

    before = state()
    assert len(zbus.peers()) == 2
    assert state() == before
    for path in odd:
        path.unlink()


# Listed with 128 bytes for an entry, too: its text then begins with garbage.
@settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXT, head=st.sampled_from([b"", bytes(7), bytes(128), b"\xff" * 128]))
@example(text=b"", head=b"")
@example(text=b"[" * 60_000, head=bytes(128))
@example(
    text=b'{"process": {}, "pid": true, "language": 1, "patterns": [[], ["a"], ["a", 1], "ab"]}', head=b""
)
@example(text=b'{"pid": -1, "patterns": {"a": "b"}, "origins": "0123456789abcdef"}', head=bytes(128))
@example(text=b'{"pid": 99999999999999999999, "origins": [[], "x", "0123456789ABCDEF"]}', head=bytes(128))
@example(text=b"x" * 70_000, head=bytes(128))
def check_odd_files(place: Path, text: bytes, head: bytes) -> None:
    for name in ("00000000deadbeef.member", "00000000deadbeef.1.drop", "00000000deadbeef.2.block"):
        (place / name).write_bytes(head + text)
    for peer in zbus.peers():
        assert peer.id == "00000000deadbeef"
        assert peer.user == ME
        assert not peer.alive
        assert all(value and type(value) is str for value in (peer.process, peer.language))
        assert type(peer.pid) is int
        assert 0 <= peer.pid < 2**31
        assert all(type(text) is str for pattern in peer.patterns for text in pattern)
        assert all(len(pattern) == 2 for pattern in peer.patterns)
        assert all(0 <= count < 2**64 for count in peer.counters.values())
    assert {peer.role for peer in zbus.peers()} == {"member", "subscriber"}


def test_files_of_any_content_are_listed(place: Path) -> None:
    check_odd_files(place)
    for path in place.iterdir():
        path.unlink()


def test_what_can_be_read_of_a_member_counts(place: Path) -> None:
    file = place / "00000000deadbeef.member"
    text = {"process": ["x"], "pid": 4711, "origins": [1, "0123456789abcdef"], "extra": None}
    file.write_bytes(b"\x07" + bytes(127) + json.dumps(text).encode())
    peer = alone()
    assert (peer.process, peer.pid, peer.language) == ("?", 4711, "?")
    assert peer.counters["lost"] == 7
    assert peer.origins == ["0123456789abcdef"]
    file.unlink()


@pytest.mark.parametrize("name", ["00000000deadbeef.member", "00000000deadbeef.1.drop", "token"])
def test_what_is_no_regular_file_is_neither_opened_nor_waited_for(place: Path, name: str) -> None:
    (place / "token").unlink()
    os.mkfifo(place / name)
    assert [peer.process for peer in zbus.peers()] in ([], ["?"])
    assert stat.S_ISFIFO((place / name).lstat().st_mode)
    (place / name).unlink()


def test_what_vanishes_meanwhile_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [*os.listdir(place), "00000000deadbeef.member", "00000000deadbeef.1.drop"]
    monkeypatch.setattr(os, "listdir", lambda _: listed)
    assert zbus.peers() == []


def test_a_listing_is_repeated_when_the_token_moves_meanwhile(
    bus: zbus.Bus, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sub = bus.subscribe("a")
    real, listings = os.listdir, []

    def missing(path: Path) -> list[str]:
        listings.append(path)
        if len(listings) > 1:
            return real(path)
        (place / "token").write_bytes(os.urandom(8))
        return []

    monkeypatch.setattr(os, "listdir", missing)
    assert [peer.role for peer in zbus.peers()] == ["member", "subscriber"]


def test_a_bus_that_is_no_directory_is_an_error(zbus_dir: str) -> None:
    Path(zbus_dir, "v1").mkdir(mode=0o700)
    Path(zbus_dir, "v1", "default").write_bytes(b"")
    with pytest.raises(zbus.PermissionDenied, match="is not a directory"):
        zbus.peers()
    Path(zbus_dir, "v1", "default").unlink()
    Path(zbus_dir, "v1").rmdir()
    Path(zbus_dir, "v1").write_bytes(b"")
    with pytest.raises(zbus.PermissionDenied, match="is not a directory"):
        zbus.peers()
    Path(zbus_dir, "v1").unlink()
