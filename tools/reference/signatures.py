"""Signatures as code, and the members of a class that users see."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args, get_origin

__all__ = ["fenced", "members", "of_callable", "of_property"]

_WIDTH = 100


def fenced(text: str, language: str = "python") -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```"


def members(kind: type) -> list[tuple[str, Any]]:
    """Return the public methods, then the properties, that classes of zbus give a class, by name."""
    found: dict[str, Any] = {}
    for base in reversed([base for base in kind.__mro__ if base.__module__.startswith("zbus")]):
        for name, value in vars(base).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if (isinstance(value, property) or inspect.isfunction(value)) and _is_public(name):
                found[name] = value
    return sorted(found.items(), key=lambda item: (isinstance(item[1], property), item[0]))


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__call__"


def of_property(value: property) -> str:
    """Return what a property is."""
    assert value.fget is not None
    return f"Property: `{value.fget.__annotations__['return']}`."


def of_callable(name: str, thing: Any, *, owner: type | None = None) -> str:
    """Return the signature of a class, a function or a method of `owner`, on several lines if it is long."""
    signature = inspect.signature(thing)
    parameters = [_parameter(one) for one in signature.parameters.values()]
    if owner is not None:
        parameters = parameters[1:]  # self, or cls
    kinds = [one.kind for one in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        first = kinds.index(inspect.Parameter.KEYWORD_ONLY) - (owner is not None)
        parameters.insert(first, "*")
    back = "" if inspect.isclass(thing) else f" -> {_resolved(str(signature.return_annotation), owner)}"
    start = ("async def " if inspect.iscoroutinefunction(thing) else "") + name
    line = f"{start}({', '.join(parameters)}){back}"
    if len(line) > _WIDTH:
        line = "\n    ".join([f"{start}(", *(f"{one}," for one in parameters)]) + f"\n){back}"
    return fenced(line)


def _parameter(one: inspect.Parameter) -> str:
    """Return a parameter with its annotation and its default."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(one.kind, "")
    text = stars + one.name
    if one.annotation is not one.empty:
        text += f": {getattr(one.annotation, '__forward_arg__', one.annotation)}"
    if one.default is not one.empty:
        default = f'"{one.default}"' if isinstance(one.default, str) else _default(one.default)
        text += f" = {default}" if one.annotation is not one.empty else f"={default}"
    return text


def _default(value: object) -> str:
    return f"{value:_}" if type(value) is int and value >= 10_000 else repr(value)


def _resolved(annotation: str, owner: type | None) -> str:
    """Put in what a class says for the type variables of its bases: `Bus` is a `Sender[None]`."""
    for base in getattr(owner, "__orig_bases__", ()):
        for variable, value in zip(
            getattr(get_origin(base), "__parameters__", ()), get_args(base), strict=False
        ):
            if value is None or value is type(None):
                annotation = re.sub(rf"\b{variable.__name__}\b( \| None)?", "None", annotation)
    return annotation
