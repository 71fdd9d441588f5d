"""What a link has not got rid of yet: the window, the spill file, and the outbox with both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import zbus
from zbus.links import packet as packets
from zbus.links.numbers import LinkNumbers
from zbus.links.outbox import Outbox
from zbus.links.packet import Packet, Window
from zbus.links.spill import Spill
from zbus.protocol.relayed import Relayed

MANY = 10**6


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spill")


@pytest.fixture
def spill(path: str) -> Iterator[Spill]:
    opened = Spill(path, MANY)
    yield opened
    opened.close()


def packet(number: int) -> Packet:
    return Packet("zbus.a", {"zbus-seq": str(number)}, b"body\0%d" % number, 1)


def number_of(found: Packet | None) -> int:
    assert found is not None
    assert found.body == b"body\0%s" % found.headers["zbus-seq"].encode()
    return int(found.headers["zbus-seq"])


def item(number: int, kind: str = "k") -> Relayed:
    return Relayed("5f0c9a1b2c3d4e5f", "a", kind, number, "a" * 16, b"/x", b"", b"1")


def outbox(spill: Spill | None = None, *, drop: bool = False) -> Outbox:
    return Outbox(LinkNumbers(), lambda system, kind: f"zbus.{system}.{kind}", spill, drop)


def in_window(box: Outbox) -> list[str]:
    window = box.window
    found = [window.get(number) for number in range(window.begin, window.end)]
    return [one.headers["Nats-Msg-Id"].rpartition(".")[2] for one in found if one is not None]


async def waits(box: Outbox, event: Relayed) -> asyncio.Task[None]:
    """Have an event accepted that there is no room for."""
    task = asyncio.create_task(box.accept(event))
    for _ in range(5):  # turns of the loop, which nothing but this task uses
        await asyncio.sleep(0)
    assert not task.done()
    return task


# --- the window


def test_a_window_begins_at_the_first_packet_that_is_not_removed() -> None:
    window = Window()
    for number in range(4):
        window.add(packet(number))
    assert window.remove(1) is not None
    assert (window.begin, window.end, len(window), window.events) == (0, 4, 3, 3)
    window.remove(0)
    assert window.begin == 2
    assert window.remove(0) is None
    assert number_of(window.oldest()) == 2
    assert [number_of(one) for one in window.drain()] == [2, 3]
    assert (window.begin, window.end, window.oldest()) == (4, 4, None)


def test_a_window_is_full_by_count_or_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "_PACKETS", 2)
    window = Window()
    for number in range(2):
        assert not window.full
        window.add(packet(number))
    assert window.full
    window.remove(0)
    assert not window.full
    window.add(Packet("zbus.a", {}, bytes(16 * 1024 * 1024), 1))
    window.remove(1)
    assert window.full


# --- the spill file


def test_what_is_written_is_read_in_order(spill: Spill) -> None:
    assert not spill.unread
    assert all(spill.append(packet(number)) for number in range(3))
    assert spill.events == 3
    assert [number_of(spill.read()) for _ in range(3)] == [0, 1, 2]
    assert (spill.unread, spill.events, spill.read()) == (False, 0, None)


def test_what_is_not_taken_is_there_when_the_file_is_opened_again(path: str) -> None:
    first = Spill(path, MANY)
    for number in range(3):
        first.append(packet(number))
    taken = first.read()
    first.read()
    assert taken is not None
    first.taken(taken.position)
    first.close()
    again = Spill(path, MANY)
    assert again.events == 2
    assert [number_of(again.read()) for _ in range(2)] == [1, 2]
    again.taken(None)
    again.append(packet(9))
    assert number_of(again.read()) == 9
    again.close()


@pytest.mark.parametrize("cut", [1, 3, 5, 20])
def test_what_was_half_written_when_the_machine_ended_is_left_out(path: str, cut: int) -> None:
    whole = Spill(path, MANY)
    for number in range(2):
        whole.append(packet(number))
    whole.close()
    text = Path(path).read_bytes()
    Path(path).write_bytes(text[:-cut])
    rest = Spill(path, MANY)
    assert number_of(rest.read()) == 0
    assert rest.read() is None
    assert rest.append(packet(7))
    assert number_of(rest.read()) == 7
    rest.close()


def test_a_file_that_is_full_takes_nothing_until_it_is_empty(path: str) -> None:
    small = Spill(path, 200)
    count = 0
    while small.append(packet(count)):
        count += 1
    assert count >= 2
    assert Path(path).stat().st_size <= 200
    for _ in range(count):
        small.read()
    small.taken(None)
    assert Path(path).stat().st_size == 16
    assert small.append(packet(count))
    small.close()


def test_two_links_do_not_share_a_file(path: str, spill: Spill) -> None:
    with pytest.raises(zbus.Unavailable, match="another link uses the spill file"):
        Spill(path, MANY)


def test_a_file_of_another_kind_is_left_as_it_is(path: str) -> None:
    text = b"#!/bin/sh\necho what is this doing here\n"
    Path(path).write_bytes(text)
    with pytest.raises(zbus.Unavailable, match="is no spill file, and nothing was written to it"):
        Spill(path, MANY)
    assert Path(path).read_bytes() == text


# --- the outbox


async def test_with_block_an_event_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "_PACKETS", 2)
    box = outbox()
    box.set_down("")
    for number in (1, 2):
        await box.accept(item(number))
    task = await waits(box, item(3))
    box.acknowledge(0)
    await task
    assert in_window(box) == ["2", "3"]


async def test_with_drop_what_has_no_room_is_told_when_the_other_side_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packets, "_PACKETS", 2)
    box = outbox(drop=True)
    box.set_down("gone")
    for number in range(1, 6):
        await box.accept(item(number))
    await box.accept(item(1, "other"))
    box.set_down("")
    assert in_window(box) == ["1", "2", "3-5", "1-1"]


async def test_with_drop_an_event_waits_while_the_other_side_takes_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packets, "_PACKETS", 1)
    box = outbox(drop=True)
    box.set_down("")
    await box.accept(item(1))
    task = await waits(box, item(2))
    box.acknowledge(0)
    await task
    assert in_window(box) == ["2"]


async def test_with_spill_all_of_it_comes_back_in_order(
    spill: Spill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets, "_PACKETS", 2)
    box = outbox(spill)
    box.set_down("")
    for number in (1, 2):
        await box.accept(item(number))
    box.set_down("gone")
    for number in (3, 4, 5):
        await box.accept(item(number))
    assert in_window(box) == []
    box.set_down("")
    seen = []
    while not box.empty:
        seen += in_window(box)[:1]
        box.acknowledge(box.window.begin)
    assert seen == ["1", "2", "3", "4", "5"]


async def test_what_was_refused_stays_in_the_file_though_the_next_one_was_taken(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = outbox(Spill(path, MANY))
    box.set_down("gone")
    for number in (1, 2, 3):
        await box.accept(item(number))
    box.set_down("")
    for taken in (1, 2):
        box.acknowledge(box.window.begin + taken)
    box.set_down("the stream refuses")
    box.set_down("")
    assert in_window(box)[0] == "1"
    box.close()
    left = Spill(path, MANY)
    assert left.unread
    left.close()
