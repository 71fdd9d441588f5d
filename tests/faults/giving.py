"""Processes that send what is odd, and one that closes with much in its queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import inf, nan
from typing import Any

import orjson

import zbus
from tests.live.workers import tell, told

MOST_BYTES = 2**31 - 1
"""The largest `capacity_bytes`."""

__all__ = ["GOOD", "TEXTS", "giver", "keeper"]

TEXTS = ("orders", "order.created", "/orders/1")
GOOD = "good"


class Member(str, Enum):  # noqa: UP042
    ORDERS, CREATED, PATH = TEXTS


class Name(StrEnum):
    ORDERS, CREATED, PATH = TEXTS


class Loose(str):
    """Compares without regard to case."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str.lower(self) == str.lower(other)

    def __hash__(self) -> int:
        return hash(str.lower(self))


class Odd(str):
    """Says of itself what its text does not."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "odd"

    def encode(self, *_: Any) -> bytes:
        return b"odd"


CLASSES = (str, Member, Name, Loose, Odd)


class Number(Enum):
    NAN = nan
    INFINITE = -inf


@dataclass
class Open:
    value: Any


@dataclass(slots=True)
class Slotted:
    value: Any


WAYS = (
    lambda value: [1, value],
    lambda value: (None, value),
    lambda value: {"a": value},
    lambda value: {1: value},
    Open,
    Slotted,
    lambda value: Enum("Made", {"A": [value]}).A,  # type: ignore[attr-defined]
)


def giver() -> None:
    """Send what it is told to, and say how that went."""
    with zbus.Bus() as bus:
        tell(ready=True)
        for line in iter(told, ""):
            what, count = line.split()
            tell(**_TASKS[what](bus, int(count)))


def _texts(bus: zbus.Bus, count: int) -> dict[str, Any]:
    for number in range(count):
        cls = CLASSES[number % len(CLASSES)]
        texts = [cls(text) for text in TEXTS]
        if number % 3:
            bus.send(*texts, number)
        else:
            bus.send_many(*texts[:2], [(texts[2], number)])
    return {"sent": count}


def _bad() -> Iterator[Any]:
    """Yield data of which a receiver would get something else."""
    fragments = (b"", b"{bad", b"\0bytes", b"1,2", b'1,"b":2', b"NaN", b"1e999", b'{"a":1,"a":2}')
    values = [nan, inf, -inf, *Number, 2**64, *map(orjson.Fragment, fragments)]
    for value in values:
        yield value
        for way in WAYS:
            yield way(value)
            for outer in WAYS:
                yield outer(way(value))
    for key in (nan, inf, *Number):
        yield {key: 1}
    yield {1: 1, "1": 2}
    ring: list[Any] = [None]
    ring.append(ring)
    yield ring


def _data(bus: zbus.Bus, count: int) -> dict[str, Any]:
    refused, went, others = 0, [], set()
    for _ in range(count):
        for data in _bad():
            for send in (
                lambda data=data: bus.send(GOOD, "k", "/bad", data),
                lambda data=data: bus.send_many(GOOD, "k", [("/bad", 1), ("/bad", data)]),
            ):
                try:
                    send()
                    went.append(repr(data))
                except zbus.Invalid:
                    refused += 1
                except Exception as error:
                    others.add(f"{type(error).__name__}: {error}")
        bus.send(GOOD, "k", "/good", {"a": None})
    return {"refused": refused, "went": went[:5], "others": sorted(others)[:5]}


_TASKS = {"texts": _texts, "data": _data}


def keeper(overflow: str) -> None:
    """Let a queue fill up until it is told of an end, close the bus, and then receive all the same."""
    bus = zbus.Bus(capacity=1 << 20, capacity_bytes=MOST_BYTES)
    sub = bus.subscribe("stream", overflow=overflow)
    every = bus.subscribe("*")
    tell(ready=True)
    for evt in every:
        if evt.system == "end":
            break
    every.close()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins again
    before = _kib("VmRSS")
    start = time.perf_counter()
    bus.close()
    seconds = time.perf_counter() - start
    grown = (_kib("VmHWM") - before) / 1024
    sizes = [len(evt.data) for evt in sub]
    tell(seconds=seconds, grown=grown, received=len(sizes), bytes=sum(sizes), lost=sub.channel().lost)
    told()


def _kib(name: str) -> int:
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(name)).split()[1])
