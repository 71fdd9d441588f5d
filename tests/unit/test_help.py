"""`help` says everything: functions of the modules as the methods they call, and both twins alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import zbus
from zbus import aio
from zbus.options import SubscribeKeywords

SAME = ("subscribe", "send", "send_many")
EVERY: list[tuple[str, Callable[..., Any]]] = [
    *(
        (f"{module.__name__}.{name}", getattr(module, name))
        for module in (zbus, aio)
        for name in (*SAME, "flush")
    ),
    *((f"{module.__name__}.select", module.select) for module in (zbus, aio)),
    *(
        (f"{module.__name__}.Bus.{name}", getattr(module.Bus, name))
        for module in (zbus, aio)
        for name in SAME
    ),
    *((f"{module.__name__}.Channel.receive", module.Channel.receive) for module in (zbus, aio)),
]


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [one for one in inspect.signature(function).parameters.values() if one.name != "self"]


@pytest.mark.parametrize("module", [zbus, aio], ids=["threads", "asyncio"])
@pytest.mark.parametrize("name", SAME)
def test_a_function_says_what_the_method_says(module: ModuleType, name: str) -> None:
    function, method = getattr(module, name), getattr(module.Bus, name)
    assert inspect.getdoc(function) == inspect.getdoc(method)
    assert parameters(function) == parameters(method)


@pytest.mark.parametrize("name", ["flush", "close"])
def test_the_others_take_what_the_method_takes(name: str) -> None:
    for module in (zbus, aio):
        assert parameters(getattr(module, name)) == parameters(getattr(module.Bus, name))


def test_type_checkers_know_all_options_of_subscribe() -> None:
    options = {one.name for one in parameters(zbus.subscribe) if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {*SubscribeKeywords.__annotations__} == options - {"type"}


@pytest.mark.parametrize("name", [*SAME, "flush", "close"])
def test_twins_take_the_same(name: str) -> None:
    assert parameters(getattr(zbus.Bus, name)) == parameters(getattr(aio.Bus, name))


@pytest.mark.parametrize(("name", "function"), EVERY, ids=[name for name, _ in EVERY])
def test_every_argument_and_error_is_explained(name: str, function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    explained, _, raised = text.partition("Args:")[2].partition("Raises:")
    for one in parameters(function):
        assert one.kind is not inspect.Parameter.VAR_KEYWORD
        assert re.search(rf"^ +(\w+, )*{one.name}(, \w+)*: ", explained, re.MULTILINE), (
            f"{one.name} of {name}"
        )
    assert re.search(r"^ +(Timeout|Canceled): ", raised, re.MULTILINE)


def test_peers_are_explained_too() -> None:
    assert "Args:" in (inspect.getdoc(zbus.peers) or "")
