"""Typed events: data as a dataclass, a msgspec Struct or a pydantic model, checked by a library.

Neither library is needed otherwise, and neither is imported before a subscription asks for a type.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import Invalid

__all__ = ["Fit", "fitter"]

Fit = Callable[[Any], Any]
"""Returns data as the type asked for, or raises; the error's text says what does not fit."""


def fitter(type: Any) -> Fit:
    """Return what turns JSON data into `type`.

    pydantic decides what a model of its own accepts; for all else (dataclass, Struct, TypedDict, NamedTuple,
    `list[int]`, ...) msgspec does if it is installed, else pydantic.

    Raises:
        Invalid: neither is installed, or `type` is not a type they can check.
    """
    if _is_model(type):
        return _by_pydantic(type)
    for make in (_by_msgspec, _by_pydantic):
        try:
            return make(type)
        except ModuleNotFoundError:
            continue
    raise Invalid("type= needs msgspec or pydantic: pip install msgspec", value=type)


def _is_model(type: Any) -> bool:
    """Whether `type` is a pydantic model, or a dataclass that pydantic made."""
    return hasattr(type, "__pydantic_core_schema__") or hasattr(type, "__pydantic_validator__")


def _by_msgspec(type: Any) -> Fit:
    msgspec = importlib.import_module("msgspec")
    try:
        msgspec.json.Decoder(type)  # says now what `convert` would say of each event
    except (TypeError, NameError) as error:
        raise _not_a_type(type, error) from error
    return partial(msgspec.convert, type=type, str_keys=True)


def _by_pydantic(type: Any) -> Fit:
    pydantic = importlib.import_module("pydantic")
    try:
        adapter = pydantic.TypeAdapter(type)
    except (TypeError, NameError, pydantic.errors.PydanticUserError) as error:
        raise _not_a_type(type, error) from error
    fit: Fit = adapter.validate_python
    return fit


def _not_a_type(type: Any, error: Exception) -> Invalid:
    return Invalid(f"type={type!r} cannot be checked: {error}", value=type)
