"""A bus is an object as any other: its methods may be overridden, patched, kept and looked at.

But it exists once: it is not copied, nor sent to another process. Nor are its channels.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import weakref
from collections.abc import Awaitable, Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any
from unittest import mock

import pytest

import zbus
from zbus import aio

from .process import directory, receive

EVENT = ("orders", "order.created", "/orders/1")
METHODS = ("subscribe", "send", "send_many", "flush", "close")


def test_a_subclass_is_asked_to_send(bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbered(zbus.Bus):
        def send(self, system: str, kind: str, path: str, data: Any = None, **options: Any) -> None:
            super().send(system, kind, f"{path}/{data}", data, **options)

    sub = bus.subscribe("orders")
    with Numbered(dir=zbus_dir) as numbered:
        numbered.send(*EVENT, 1, timeout=1)
        monkeypatch.setattr(zbus._default, "bus", numbered)
        zbus.send(*EVENT, 2)
    assert [receive(sub).path for _ in range(2)] == ["/orders/1/1", "/orders/1/2"]


async def test_a_subclass_of_asyncio_is_asked_to_send(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Numbered(aio.Bus):
        async def send(self, system: str, kind: str, path: str, data: Any = None, **options: Any) -> None:
            await super().send(system, kind, f"{path}/{data}", data, **options)

    sub = bus.subscribe("orders")
    async with Numbered(dir=zbus_dir) as numbered:
        await numbered.send(*EVENT, 1, timeout=1)
        monkeypatch.setattr(aio._default, "bus", numbered)
        await aio.send(*EVENT, 2)
    assert [receive(sub).path for _ in range(2)] == ["/orders/1/1", "/orders/1/2"]


@pytest.mark.parametrize("method", METHODS)
def test_a_patched_method_is_called_in_place_of_the_real_one(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        monkeypatch.setattr(zbus._default, "bus", bus)
        arguments = {"subscribe": EVENT[:1], "send": EVENT, "send_many": (*EVENT[:2], [])}.get(method, ())
        with mock.patch.object(zbus.Bus, method, autospec=True) as patched:
            getattr(bus, method)(*arguments)
            getattr(zbus, method)(*arguments)
            if arguments:
                with pytest.raises(TypeError):  # `autospec` knows the signature
                    getattr(bus, method)()
        assert [call.args[: 1 + len(arguments)] for call in patched.call_args_list] == [(bus, *arguments)] * 2
        bus.send(*EVENT)
        assert not bus.closed


async def test_a_patched_method_of_asyncio_is_called_in_place_of_the_real_one(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aio.Bus(dir=zbus_dir) as bus:
        monkeypatch.setattr(aio._default, "bus", bus)
        with mock.patch.object(aio.Bus, "send", autospec=True) as patched:
            await bus.send(*EVENT)
            await aio.send(*EVENT)
        assert [call.args for call in patched.await_args_list] == [(bus, *EVENT), (bus, *EVENT, None)]


def test_a_method_may_be_wrapped(bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: zbus.Bus, *args: Any, **options: Any) -> Any:
            calls.append(args)
            return method(self, *args, **options)

        return call

    sub = bus.subscribe("orders")
    monkeypatch.setattr(zbus.Bus, "send", noted(zbus.Bus.send))
    bus.send(*EVENT)
    assert receive(sub).path == calls[0][2] == "/orders/1"
    assert zbus.Bus.send.__name__ == "send"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_bus_alive(bus: zbus.Bus, zbus_dir: str, method: str) -> None:
    kept = getattr(zbus.Bus(dir=zbus_dir), method)
    gc.collect()
    assert not kept.__self__.closed
    assert kept == getattr(kept.__self__, method)
    there = weakref.WeakMethod(kept)
    assert there() == kept
    if method == "send":
        sub = bus.subscribe("orders")
        kept(*EVENT)
        assert receive(sub).path == "/orders/1"
    del kept
    gc.collect()
    assert there() is None


def test_a_bus_that_nobody_keeps_sends(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("orders")
    for number in range(20):
        zbus.Bus(dir=zbus_dir).send(*EVENT, number)
    assert sorted(receive(sub).data for _ in range(20)) == list(range(20))


async def test_a_bus_of_asyncio_that_nobody_keeps_sends(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("orders")
    send: Callable[..., Awaitable[None]] = aio.Bus(dir=zbus_dir).send
    gc.collect()
    await send(*EVENT)
    await aio.Bus(dir=zbus_dir).send(*EVENT)
    assert [receive(sub).path for _ in range(2)] == ["/orders/1"] * 2


@pytest.mark.parametrize("kind", [zbus.Bus, aio.Bus])
def test_the_class_tells_what_send_takes(kind: type) -> None:
    told = inspect.signature(kind.send)  # type: ignore[attr-defined]
    assert list(told.parameters) == ["self", "system", "kind", "path", "data", "timeout"]
    assert told.parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.getdoc(kind.send)  # type: ignore[attr-defined]


def test_a_bus_has_no_methods_of_its_own(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        assert not [name for name in vars(bus) if not name.startswith("_")]
        assert isinstance(bus.send, type(bus.close))


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "an old pickle": lambda it: pickle.dumps(it, 0),
    "multiprocessing": ForkingPickler.dumps,
}
REFUSED = (
    r"^a (Bus|Subscription|Channel) cannot be copied or sent to another process: share it as it is, and "
)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_nothing_is_copied_and_nothing_closes_for_it(bus: zbus.Bus, way: str, overflow: str) -> None:
    sub = bus.subscribe("orders", overflow=overflow)
    with zbus.Bus(dir=directory(bus).parents[1]) as plain:
        for it in (plain, sub, sub.channel()):
            with pytest.raises(TypeError, match=REFUSED):
                COPIES[way](it)
        gc.collect()
        assert not plain.closed
        plain.send(*EVENT)
        assert receive(sub).path == "/orders/1"


@pytest.mark.parametrize("way", COPIES)
async def test_nothing_of_asyncio_is_copied_either(zbus_dir: str, way: str) -> None:
    async with aio.Bus(dir=zbus_dir) as bus:
        sub = await bus.subscribe("orders")
        for it in (bus, sub, sub.channel()):
            with pytest.raises(TypeError, match=REFUSED):
                COPIES[way](it)
        gc.collect()
        await bus.send(*EVENT)
        assert (await sub.channel().receive(timeout=30))[1]


def test_a_subclass_may_say_how_it_is_sent(zbus_dir: str) -> None:
    with Named(zbus_dir) as bus, pickle.loads(pickle.dumps(bus)) as other:
        assert (other.name, other.closed, type(other)) == (bus.name, False, Named)
        assert other is not bus


class Named(zbus.Bus):
    """Opens a bus of its own where it is sent to."""

    def __init__(self, where: str) -> None:
        super().__init__(dir=where)
        self._where = where

    def __reduce__(self) -> Any:
        return Named, (self._where,)
