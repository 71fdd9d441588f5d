"""The file with live numbers: what its readers survive, what it holds at most, and what it costs to fill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import zbus
from zbus.node import numbers as node_numbers
from zbus.roster import numbers as roster_numbers
from zbus.roster.numbers import MEMBER_BYTES, SLOT_BYTES, read_numbers, read_publications, write_numbers

from .numbers import looks, member_file, numbers, publications
from .process import receive

MOST = SLOT_BYTES - 8


def told(number: int, size: int) -> bytes:
    """Return a publication that says the same number at its beginning and at its end."""
    text = b'{"time":%d,"topics":[["%b","k",%d,0]],"joins":%d}'
    return text % (number, b"x" * size, number, number)


def is_whole(found: zbus.Numbers) -> bool:
    number = round(found.time * 1e6)
    return found.joins == number == found.by_topic[0].events


def write_forever(path: Path, seed: int) -> None:
    """Publish as fast as possible, in a forked child."""
    fd = os.open(path, os.O_RDWR)
    size = random.Random(seed).randrange(100_000, MOST - 200)
    number = 1
    while True:
        write_numbers(fd, number, told(number, size))
        number += 1


def writer(path: Path, seed: int) -> int:
    path.write_bytes(bytes(128))
    child = os.fork()
    if not child:
        try:
            write_forever(path, seed)
        finally:
            os._exit(1)
    while read_numbers(path) is None:
        pass
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_reader_never_sees_half_a_table(tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.member"
    child = writer(path, 0)
    try:
        seen: set[int] = set()
        reads = 0
        while reads < 2_000 or len(seen) < 2:  # its writer may have to wait for a CPU
            if (found := read_numbers(path)) is not None:
                assert is_whole(found)
                seen.add(found.joins)
            reads += 1
    finally:
        kill(child)


@pytest.mark.parametrize("seed", range(8))
def test_a_writer_that_is_killed_leaves_a_whole_table(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "0123456789abcdef.member"
    kill(writer(path, seed))
    found = read_numbers(path)
    assert found is not None
    assert is_whole(found)


def test_a_table_that_was_not_written_completely_is_not_the_latest(tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.member"
    path.write_bytes(bytes(128))
    fd = os.open(path, os.O_RDWR)
    try:
        write_numbers(fd, 1, told(1, 100))
        os.close(fd)
        fd = os.open(path, os.O_RDONLY)  # which refuses to be written
        with pytest.raises(OSError, match="Bad file descriptor"):
            write_numbers(fd, 2, told(2, 100))
    finally:
        os.close(fd)
    assert (found := read_numbers(path)) is not None
    assert found.joins == 1


def opened(path: Path) -> int:
    path.write_bytes(bytes(128))
    return os.open(path, os.O_RDWR)


def joins(found: zbus.Numbers | None) -> int | None:
    return found.joins if found else None


def test_the_publication_before_is_there_until_it_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.member"
    fd = opened(path)
    try:
        assert [*read_publications(path)] == [None, None]
        write_numbers(fd, 1, told(1, 100))
        assert [*map(joins, read_publications(path))] == [1, None]
        write_numbers(fd, 2, told(2, 100))
        assert [*map(joins, read_publications(path))] == [2, 1]
        write_numbers(fd, 3, told(3, 100))
        os.pwrite(fd, (2).to_bytes(8, "little"), 40)  # as just before the owner writes the number
        assert [*map(joins, read_publications(path))] == [2, None]
    finally:
        os.close(fd)


def test_a_publication_that_is_written_over_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0123456789abcdef.member"
    fd = opened(path)
    size = 100_000
    slot = 65_536 + 262_144
    read = os.pread

    def pread(fd_read: int, length: int, offset: int) -> bytes:
        found = read(fd_read, length, offset)
        if offset == slot + 8:  # the owner writes meanwhile, and so its end is new already
            new = told(3, size)
            found = found[:50_000] + new[50_000:]
            os.pwrite(fd, len(new).to_bytes(8, "little") + new, slot)
        return found

    try:
        write_numbers(fd, 1, told(1, size))
        write_numbers(fd, 2, told(2, size))
        assert joins(read_publications(path).former) == 1
        monkeypatch.setattr(roster_numbers.os, "pread", pread)
        assert read_publications(path).former is None
    finally:
        os.close(fd)


def test_both_publications_are_whole_while_their_owner_writes(tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.member"
    child = writer(path, 1)
    try:
        for _ in range(2_000):
            latest, former = read_publications(path)
            assert latest is None or is_whole(latest)
            assert former is None or is_whole(former)
    finally:
        kill(child)


def test_a_file_system_that_is_full_costs_the_numbers_only(zbus_dir: str) -> None:
    program = f"""
import resource, zbus
from tests.live.numbers import looks
with zbus.Bus(dir={zbus_dir!r}) as bus:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1", 1)
    assert sub.channel().receive(timeout=60).event.data == 1
    with looks() as wait:
        wait(1)
    bus._node._member.add("lost")
    [member, _] = zbus.peers(dir={zbus_dir!r})
    assert member.numbers is None, member
    assert (member.pid, member.counters["lost"]) == (__import__("os").getpid(), 1), member
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    bus.send("a", "b", "/1", 1)
    with looks() as wait:
        wait(1)
    assert zbus.peers(dir={zbus_dir!r})[0].numbers.events == 2
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", program], timeout=120, check=True, cwd=root)


def garbage() -> Iterator[bytes]:
    random_one = random.Random(5)
    for _ in range(300):
        content = bytearray(random_one.choice([0, 40, 48, 128, 70_000, MEMBER_BYTES, MEMBER_BYTES + 1]))
        for at in (40, 65_536, 327_680):
            if at + 8 <= len(content):
                value = random_one.choice([0, 1, 2, 3, 17, 100, 2**31, 2**63, 2**64 - 1])
                content[at : at + 8] = value.to_bytes(8, "little")
                content[at + 8 : at + 8] = (
                    random_one.randbytes(20) if random_one.random() < 0.5 else b'{"time":1}'
                )
        yield bytes(content)


def test_whatever_lies_there_is_no_error(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir):
        place = member_file().parent
    file = place / "00000000deadbeef.member"
    for content in garbage():
        file.write_bytes(content)
        [peer] = zbus.peers()
        assert peer.numbers is None or peer.numbers.events == 0
    file.unlink()
    os.mkfifo(file)
    assert zbus.peers() == []
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert zbus.peers() == []
    file.unlink()
    with open(file, "wb") as sparse:
        sparse.truncate(1 << 40)
    assert [(peer.process, peer.numbers) for peer in zbus.peers()] == [("?", None)]
    file.unlink()


def test_the_text_ends_before_the_numbers_and_its_readers_know(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.events == 1)
    content = member_file().read_bytes()
    text = content[128:65_536]
    assert json.loads(text[: text.index(b"\0")])["pid"] == os.getpid()
    [peer] = zbus.peers()
    assert (peer.pid, len(peer.origins)) == (os.getpid(), 1)


# bounds


def pretend(bus: zbus.Bus, system: str, kind: str, sent: int) -> None:
    """Add a topic as if so many events had been sent to it, and told of by a mark."""
    topic = bus._publisher.streams.add(system, kind, 1)
    topic.seq = topic.marked = sent


def test_sixty_thousand_topics_with_long_names_fit(bus: zbus.Bus) -> None:
    """The busiest are shown, as far as there is room, and the totals say all."""
    name = "n" * 150
    bus.send("s", "k", "/1", 1)
    for number in range(1, 60_000):
        pretend(bus, f"{name}.{number}", name, number + 1)
    found = numbers(lambda it: it.topics == 60_000)
    assert found.events == 60_000 * 60_001 // 2
    assert [row.events for row in found.by_topic] == [*range(60_000, 60_000 - len(found.by_topic), -1)]
    assert 300 < len(found.by_topic) < 1_000
    assert member_file().stat().st_size <= MEMBER_BYTES


def test_a_thousand_topics_are_shown_at_most(bus: zbus.Bus) -> None:
    bus.send("s", "k", "/1", 1)
    for number in range(1, 3_000):
        pretend(bus, "s", f"k{number}", number + 1)
    found = numbers(lambda it: it.topics == 3_000)
    assert [row.events for row in found.by_topic] == [*range(3_000, 2_000, -1)]


def test_names_that_are_very_long_do_not_hide_the_others(bus: zbus.Bus) -> None:
    sub = bus.subscribe("**")
    _other = bus.subscribe("y" * 10_000)
    bus.send("x" * 300_000, "k", "/1", 1)
    bus.send("a", "k", "/1", 1)
    assert [receive(sub).data for _ in range(2)] == [1, 1]
    found = numbers(lambda it: it.events == it.received == 2)
    assert [row.system for row in found.by_topic] == ["a"]
    assert [row.system for row in found.by_channel] == ["**"]
    assert (found.topics, found.channels) == (2, 2)


def test_whatever_there_is_to_tell_it_fits_into_a_slot(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = bus._node.numbers
    name = "\N{SNOWMAN}" * 2_000  # three bytes each
    row = {"id": 1, "system": name, "kind": name, "overflow": "drop", "received": 2**53}
    for number in range(500):
        bus._publisher.streams.add(f"{number}", name, 1)
    monkeypatch.setattr(live._channels, "numbers", lambda _: [row] * 1_000)
    text = live._text(0.0)
    assert len(text) + 40 <= MOST
    told_all: dict[str, Any] = orjson.loads(text)
    assert told_all["received"] == {"events": 1_000 * 2**53, "channels": 1_000}
    assert told_all["channels"]
    assert told_all["topics"]


# cost


def test_a_look_that_takes_long_is_not_repeated_soon(bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take half a percent of a core: after one of 10 ms the next is 2 s later."""
    bus.send("a", "b", "/1", 1)
    live = bus._node.numbers
    now, spent = [1_000.0], [0.0]

    def text(_: float) -> bytes:
        spent[0] += 0.010
        looked.append(now[0])
        return b"{}"

    looked: list[float] = []
    monkeypatch.setattr(live, "_due", 0.0)
    monkeypatch.setattr(live, "_text", text)
    monkeypatch.setattr(node_numbers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(node_numbers.time, "thread_time", lambda: spent[0])
    for _ in range(10):
        live.publish()
        now[0] += 1.0
    monkeypatch.undo()
    assert looked == [1_000.0, 1_002.0, 1_004.0, 1_006.0, 1_008.0]


def test_numbers_that_have_not_changed_are_not_written(bus: zbus.Bus) -> None:
    bus.send("a", "b", "/1", 1)
    numbers(lambda it: it.events == 1)
    file = member_file()
    before = publications(file), file.stat().st_mtime_ns
    with looks() as wait:
        wait(3)
    assert (publications(file), file.stat().st_mtime_ns) == before
