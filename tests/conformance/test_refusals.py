"""Runs `vectors/refuse.json`: what a publisher must refuse before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import zbus

from .sequences import Case, read

REFUSE = read("refuse.json")


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", REFUSE[name], ids=lambda case: str(case["id"]))


@pytest.fixture
def bus(zbus_dir: str) -> Iterator[zbus.Bus]:
    with zbus.Bus(dir=zbus_dir) as bus:
        yield bus


def refuses(bus: zbus.Bus, system: str, kind: str, path: str, data: Any = None) -> bool:
    """Return whether `send` and `send_many` refuse an event. If they do, nothing of it arrives."""
    channel = bus.subscribe("**").channel()
    refusals = 0
    for attempt in (
        lambda: bus.send(system, kind, path, data),
        lambda: bus.send_many(system, kind, [(path, data)]),
    ):
        try:
            attempt()
        except zbus.Invalid:
            refusals += 1
    bus.send("the", "end", "/")
    events = [channel.receive(timeout=30)[0] for _ in range(3 - refusals)]
    assert refusals in (0, 2)
    assert events[-1] is not None
    assert events[-1].system == "the"
    return refusals == 2


@each("topics_refused")
def test_a_topic_or_path_is_refused(bus: zbus.Bus, case: Case) -> None:
    assert refuses(bus, case["system"], case["kind"], case["path"])


@each("topics_refused_lax")
def test_text_that_utf8_cannot_carry_is_refused(bus: zbus.Bus, case: Case) -> None:
    assert refuses(bus, *json.loads(case["lax"]))


@each("topics_sent")
def test_a_topic_or_path_is_sent(bus: zbus.Bus, case: Case) -> None:
    assert not refuses(bus, case["system"], case["kind"], case["path"])


@each("data_refused")
def test_data_is_refused(bus: zbus.Bus, case: Case) -> None:
    assert refuses(bus, "s", "k", "/p", json.loads(case["lax"]))


@each("data_sent")
def test_data_is_sent(bus: zbus.Bus, case: Case) -> None:
    assert not refuses(bus, "s", "k", "/p", json.loads(case["lax"]))


@each("items_refused")
def test_a_batch_is_refused_as_a_whole(bus: zbus.Bus, case: Case) -> None:
    with pytest.raises(zbus.Invalid):
        bus.send_many("s", "k", [(path, data) for path, data in case["items"]])


@each("sizes")
def test_a_frame_that_is_too_large_is_refused(zbus_dir: str, case: Case) -> None:
    with zbus.Bus(dir=zbus_dir, max_event_bytes=case["max_event_bytes"]) as bus:
        path, data = "/" * case["path_bytes"], b"x" * case["data_bytes"]
        try:
            bus.send("s", "k", path, data)
            refused = False
        except zbus.Invalid:
            refused = True
    assert refused is case["refused"]


def test_more_is_refused_than_sent() -> None:
    lists = {name: rows for name, rows in REFUSE.items() if isinstance(rows, list)}
    ids = [case["id"] for rows in lists.values() for case in rows]
    assert len(set(ids)) == len(ids)
    assert sum(len(rows) for name, rows in lists.items() if "refused" in name) > len(ids) / 2
