"""Typed events: data converted to a dataclass, a msgspec Struct or a pydantic model.

msgspec or pydantic does that. Neither is needed otherwise, and neither is imported before a subscription asks
for a type.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import Invalid

__all__ = ["Fit", "fitter"]

Fit = Callable[[Any], Any]
"""Converts JSON data to the type asked for, or raises an error whose text says what does not fit."""


def fitter(type: Any) -> Fit:
    """Return a function that converts JSON data to `type`.

    pydantic converts to its own models. For every other type (dataclass, Struct, TypedDict, NamedTuple,
    `list[int]`, ...) it is msgspec if that is installed, else pydantic.

    Raises:
        Invalid: neither is installed, or `type` is not a type that they support.
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
    """Return whether `type` is a pydantic model or a pydantic dataclass."""
    return hasattr(type, "__pydantic_core_schema__") or hasattr(type, "__pydantic_validator__")


def _by_msgspec(type: Any) -> Fit:
    msgspec = importlib.import_module("msgspec")
    try:
        msgspec.json.Decoder(type)  # raises now what `convert` would raise for each event
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
