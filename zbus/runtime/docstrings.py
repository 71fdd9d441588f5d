"""Docstrings that several functions share, so that `help` says everything of each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["as_of", "details_of"]

F = TypeVar("F", bound=Callable[..., Any])


def as_of(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function of the module the docstring of the method that it calls."""

    def give(function: F) -> F:
        function.__doc__ = inspect.getdoc(method)
        return function

    return give


def details_of(twin: Callable[..., Any]) -> Callable[[F], F]:
    """Add to a docstring what that of its twin says from its arguments on."""

    def add(function: F) -> F:
        head, marker, details = (inspect.getdoc(twin) or "").partition("Args:\n")
        if head:  # not if Python leaves docstrings out
            function.__doc__ = f"{inspect.getdoc(function)}\n\n{marker}{details}"
        return function

    return add
