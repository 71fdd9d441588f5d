"""The page about the Python API: every public module with what it offers."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any, Literal, get_origin

from docstring import markdown, summary
from signatures import fenced, members, of_callable, of_property

import zbus
import zbus.testing
from zbus import aio, errors, logging

__all__ = ["reference"]

MODULES = (zbus, aio, errors, logging, zbus.testing)
_HEAD = """\
# Reference

The public API, from the signatures and docstrings of the package. The [guide](guide.md) explains how the
parts work together, and [the commands](cli.md) have a page of their own.

<!-- Written by `python tools/reference`. Change the docstrings, not this page. -->
"""


def reference() -> str:
    """Return the whole page."""
    contents = "\n".join(f"- [{module.__name__}](#{_anchor(module.__name__)})" for module in MODULES)
    return "\n".join([_HEAD, contents, "", *map(_module, MODULES)])


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return title.lower().replace(".", "").replace(" ", "-")


def _module(module: ModuleType) -> str:
    """Return the section of a module: a table of what it offers, and an entry for what is described here."""
    homes = _homes()
    rows, entries = [], []
    for name in module.__all__:
        thing, home = getattr(module, name), f"{module.__name__}.{name}"
        if isinstance(thing, str):  # a constant says it all
            rows.append(f"| `{name}` | `{thing!r}`, the `kind` of an error |")
            continue
        rows.append(f"| [`{name}`](#{_anchor(homes[id(thing)])}) | {_about(thing)} |")
        if homes[id(thing)] == home and not inspect.ismodule(thing):
            entries.append(f"### {home}\n\n{_entry(home, thing)}")
    table = "\n".join(["| name | what it is |", "|---|---|", *rows])
    return "\n\n".join([f"## {module.__name__}", markdown(module.__doc__ or ""), table, *entries]) + "\n"


def _homes() -> dict[int, str]:
    """Return by id where each object is described: in the last module that offers it, a module as itself."""
    offered = {
        id(getattr(module, name)): f"{module.__name__}.{name}"
        for module in MODULES
        for name in module.__all__
    }
    return offered | {id(module): module.__name__ for module in MODULES}


def _about(thing: Any) -> str:
    """Return what the table of a module says of a thing."""
    if get_origin(thing) is Literal:
        return f"`{_literal(thing)}`"
    return summary(inspect.unwrap(thing) if callable(thing) else thing).replace("|", "\\|")


def _literal(thing: Any) -> str:
    return str(thing).removeprefix("typing.").replace("'", '"')


def _entry(name: str, thing: Any) -> str:
    """Return what is said of a class, function, fixture or type."""
    if get_origin(thing) is Literal:
        return fenced(_literal(thing))
    if inspect.isclass(thing):
        return _class(name, thing)
    function = inspect.unwrap(thing)
    if type(thing).__module__.startswith("_pytest") or hasattr(thing, "_pytestfixturefunction"):
        given = function.__annotations__["return"].removeprefix("Iterator[").removesuffix("]")
        return f"Fixture: `{given}`.\n\n{markdown(function.__doc__ or '')}"
    method = _method_of(name, function)
    body = (
        f"As [`{method}`](#{_anchor(method)}), on the default bus." if method else markdown(function.__doc__)
    )
    return f"{of_callable(name, function)}\n\n{body}"


def _method_of(name: str, function: Any) -> str:
    """Return the method of `Bus` whose docstring a function shares, or nothing."""
    *module, short = name.split(".")
    bus = zbus.Bus if module == ["zbus"] else aio.Bus
    shared = inspect.getdoc(getattr(bus, short, None)) == inspect.getdoc(function)
    return ".".join([*module[1:], "Bus", short]) if shared else ""


def _class(name: str, kind: type) -> str:
    """Return what is said of a class: how it is made, what it is, and its members."""
    making = vars(kind).get("__init__")
    ours = (kind.__init__.__doc__ or "").startswith("Made by")  # type: ignore[misc]  # not for users to call
    parts = [fenced(f"class {name}") if ours else of_callable(f"class {name}", kind)]
    parts += [
        f"Also a `{base.__name__}`."
        for base in kind.__mro__
        if base in (ValueError, TimeoutError, PermissionError)
    ]
    parts.append(markdown(kind.__doc__ or ""))
    if making is not None and making.__doc__ and not ours:
        parts.append(markdown(making.__doc__))
    for member, value in members(kind):
        title = f"{name.removeprefix('zbus.')}.{member}"
        is_property = isinstance(value, property)
        shown = of_property(value) if is_property else of_callable(title, value, owner=kind)
        parts += [f"#### {title}", shown, markdown(value.__doc__ or "")]
    return "\n\n".join(parts)
