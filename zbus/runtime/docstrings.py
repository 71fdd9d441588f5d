"""Docstrings that several functions share, so that `help` is complete for each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["as_of", "details_of"]

F = TypeVar("F", bound=Callable[..., Any])


def as_of(method: Callable[..., Any], *, signature: bool = False) -> Callable[[F], F]:
    """Give a function the docstring of the method that it calls, and on demand the signature."""

    def give(function: F) -> F:
        function.__doc__ = inspect.getdoc(method)
        if signature:
            own = inspect.signature(method)
            parameters = [*own.parameters.values()][1:]  # not `self`
            vars(function)["__signature__"] = own.replace(parameters=parameters)
        return function

    return give


def details_of(twin: Callable[..., Any]) -> Callable[[F], F]:
    """Add to a docstring what the twin's docstring says from `Args:` on; a decorator."""

    def add(function: F) -> F:
        head, marker, details = (inspect.getdoc(twin) or "").partition("Args:\n")
        if head:  # not if Python leaves docstrings out
            function.__doc__ = f"{inspect.getdoc(function)}\n\n{marker}{details}"
        return function

    return add
