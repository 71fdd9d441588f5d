"""Data as a type: what fits is converted, what does not says why, and what is no type is refused at once."""

from __future__ import annotations

import builtins
import dataclasses
import datetime
import importlib
import typing
from typing import Any

import msgspec
import pydantic
import pytest

from zbus import Invalid
from zbus.protocol.typed import fitter


@dataclasses.dataclass
class Line:
    sku: str
    count: int = 1


@dataclasses.dataclass
class Order:
    total: float
    lines: list[Line]
    at: datetime.datetime | None = None


class Struct(msgspec.Struct):
    total: float
    lines: list[Line]
    at: datetime.datetime | None = None


class Model(pydantic.BaseModel):
    total: float
    lines: list[Line]
    at: datetime.datetime | None = None


class Dict(typing.TypedDict):
    total: float


DATA = {"total": 9.5, "lines": [{"sku": "a"}, {"sku": "b", "count": 2}], "at": "2026-11-24T12:00:00Z"}


@pytest.mark.parametrize("type", [Order, Struct, Model])
def test_what_fits_becomes_an_object(type: Any) -> None:
    order = fitter(type)(DATA)
    assert isinstance(order, type)
    assert (order.total, order.lines) == (9.5, [Line("a"), Line("b", 2)])
    assert order.at == datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize("type", [Order, Struct, Model])
@pytest.mark.parametrize(
    "data", [None, 1, [], {}, b"bytes", {"total": "much", "lines": []}, {"total": 1, "lines": [{"count": 1}]}]
)
def test_what_does_not_fit_says_why(type: Any, data: Any) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        fitter(type)(data)
    assert "Expected" in str(caught.value) or "missing" in str(caught.value) or "valid" in str(caught.value)


@pytest.mark.parametrize(
    ("type", "data", "value"),
    [
        (int, 3, 3),
        (list[Line], [{"sku": "a"}], [Line("a")]),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (bytes, b"raw", b"raw"),
        (Dict, {"total": 1.5}, {"total": 1.5}),
    ],
)
def test_other_types_will_do_too(type: Any, data: Any, value: Any) -> None:
    assert fitter(type)(data) == value


@pytest.mark.parametrize("type", [3, "Order", len, "no.such.Type"])
def test_what_is_no_type_is_refused_at_once(type: Any) -> None:
    with pytest.raises(Invalid, match=r"type=.* cannot be checked"):
        fitter(type)


class Without:
    """Stands for an environment in which some libraries are not installed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        load = importlib.import_module

        def missing(name: str, *rest: Any) -> Any:
            if name in names:
                raise builtins.ModuleNotFoundError(name)
            return load(name, *rest)

        monkeypatch.setattr(importlib, "import_module", missing)


def test_without_msgspec_pydantic_checks_a_dataclass(monkeypatch: pytest.MonkeyPatch) -> None:
    Without(monkeypatch, "msgspec")
    fit = fitter(Order)
    assert fit(DATA).lines[1] == Line("b", 2)
    with pytest.raises(ValueError, match="total"):
        fit({"total": "much", "lines": []})
    with pytest.raises(Invalid, match="cannot be checked"):
        fitter(3)


def test_without_either_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    Without(monkeypatch, "msgspec", "pydantic")
    with pytest.raises(Invalid, match=r"pip install msgspec$"):
        fitter(Order)
