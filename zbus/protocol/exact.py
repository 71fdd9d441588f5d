"""Exact JSON: whether the text that orjson wrote says the same as the value it was made from.

orjson silently writes some values as something else. NaN and the infinities become null, also as keys. Two
keys with the same text become that key twice. A `Fragment` becomes whatever it holds. `verify` compares the
text with the value and refuses these. JSON text that somebody gives us (`zbus send`) is read by
`parse_exactly`, which refuses what a receiver would round or drop.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from math import isinf
from typing import Any

import orjson

from ..errors import Invalid
from .nulls import has_nones, is_finite

__all__ = [
    "Fragment",
    "Inexact",
    "count_references",
    "fragments_about",
    "known_references",
    "parse_exactly",
    "unsendable",
    "verify",
]

Fragment = orjson.Fragment

_OWN_REFERENCES = 1 if sys.version_info < (3, 13) else 0  # orjson's, which the garbage collector does not see
_SCALARS = (str, int, float, bool)
_INTEGER_DIGITS = 20
_SHOWN_BITS = 256


class Inexact(ValueError):
    """A receiver would get something other than what the JSON text says."""


Place = tuple[Any, ...]
"""Where a value is: the place of its container, its key or name, whether that is a key; or just a name."""

_no_fragments = -1


def count_references() -> int:
    """Return the reference count of `Fragment` while no fragment exists; -1 if that cannot be known.

    A fragment may be anywhere in the data. But each one refers to its class, and reading that reference count
    takes 10 ns. The garbage collector knows what else refers to the class, and it does not know fragments.
    Call this after all modules of zbus that refer to the class were imported.
    """
    global _no_fragments
    before = sys.getrefcount(Fragment)
    fragment = Fragment(b"0")
    counted = sys.getrefcount(Fragment) - before
    del fragment
    if counted == 1:
        owners = gc.get_referrers(Fragment)
        known = sum(item is Fragment for owner in owners for item in gc.get_referents(owner))
        _no_fragments = known + _OWN_REFERENCES + 1  # one of the call
    else:  # orjson before 3.13, whose class is not counted: then every text is verified, which takes 0.5 us
        _no_fragments = -1
    return _no_fragments


def known_references() -> int:
    """Return what `count_references` returned last."""
    return _no_fragments


def fragments_about() -> bool:
    """Return whether a fragment may exist anywhere in this process."""
    return sys.getrefcount(Fragment) != _no_fragments


def verify(value: Any, text: bytes, where: str, *, odd: bool = False) -> None:
    """Raise `Invalid` unless `text`, which orjson made of `value`, says the same as `value`.

    Call this if the text has a null, if there are `fragments_about`, or if `odd` keys became strings.
    """
    if not odd:
        if is_finite(value):
            return
        if not fragments_about() and has_nones(value, text):
            return
    if _follow(value, _as_json(orjson.loads, text, where), where):
        _as_json(parse_exactly, text, where)


def _as_json(parse: Callable[[bytes], Any], text: bytes, where: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        message = f"{where} holds an orjson.Fragment that cannot be carried: {error}"
        raise Invalid(message, where=where) from error


def _follow(value: Any, told: Any, where: str) -> bool:
    """Compare a value with its text, null by null and key by key; return whether it has a fragment."""
    fragments = False
    todo: list[tuple[Any, Any, Place]] = [(value, told, (where,))]
    while todo:  # no recursion: the caller may be deep in the stack
        value, told, place = todo.pop()
        meant = _meant(value)
        if type(meant) is Fragment:
            fragments = True
        elif told is None:
            if meant is not None:
                name = _name(place)
                raise Invalid(
                    f"{name} is {value!r}, which JSON cannot carry: send None or a string", where=name
                )
        elif isinstance(told, list):
            todo += _items(meant, told, place)
        elif isinstance(told, dict):
            todo += _members(meant, told, place)
    return fragments


def _meant(value: Any) -> Any:
    """Return the value of an enum member, which is what orjson writes for it; anything else as it is."""
    while isinstance(value, Enum) and not isinstance(value, (str, int, list, dict)):
        value = value.value
    return value


def _items(value: Any, told: list[Any], place: Place) -> Iterable[tuple[Any, Any, Place]]:
    items = list.copy(value) if isinstance(value, list) else value
    if not isinstance(items, (list, tuple)) or len(items) != len(told):
        raise _differs(place)
    return [
        (item, says, (place, index, True))
        for index, (item, says) in enumerate(zip(items, told, strict=True))
        if type(says) not in _SCALARS or type(item) not in _SCALARS
    ]


def _members(value: Any, told: dict[str, Any], place: Place) -> Iterable[tuple[Any, Any, Place]]:
    if not isinstance(value, dict):
        return [(_field(value, name, place), says, (place, name, False)) for name, says in told.items()]
    items = list(dict.items(value))
    if len(items) != len(told):
        raise _twins(items, place) or _differs(place)
    found = []
    for (key, item), (name, says) in zip(items, told.items(), strict=True):
        if name == "null" and type(key) is not str:
            _check_null_key(key, place)
        if type(says) not in _SCALARS or type(item) not in _SCALARS:
            found.append((item, says, (place, key, True)))
    return found


def _check_null_key(key: Any, place: Place) -> None:
    meant = _meant(key)
    if meant is not None and not isinstance(meant, str):
        where = _name(place)
        raise Invalid(f"{where} has the key {key!r}, which JSON cannot carry: use a string", where=where)


def _field(value: Any, name: str, place: Place) -> Any:
    """Return a field of a dataclass as orjson finds it."""
    fields = getattr(value, "__dict__", None)
    if isinstance(fields, dict) and name in fields:
        return fields[name]
    try:
        return getattr(value, name)
    except AttributeError:
        raise _differs(place) from None


def _differs(place: Place) -> Invalid:
    where = _name(place)
    return Invalid(
        f"{where} is not what its JSON text says: it changed meanwhile, or holds an orjson.Fragment that is"
        " not one JSON value",
        where=where,
    )


def _twins(items: Iterable[tuple[Any, Any]], place: Place) -> Invalid | None:
    """Return the error that names two keys that are the same in JSON."""
    names: dict[str, Any] = {}
    for key, _ in items:
        text = orjson.dumps({key: 0}, option=orjson.OPT_NON_STR_KEYS)
        [name] = orjson.loads(text)
        twin = names.setdefault(name, key)
        if twin is not key:
            where = _name(place)
            return Invalid(f"{where} has both {twin!r} and {key!r}, one key in JSON", where=where)
    return None


def _name(place: Place) -> str:
    """Return a place as a user would write it: `data['items'][3].total`."""
    parts = []
    while len(place) == 3:
        place, key, bracket = place
        parts.append(f"[{key!r}]" if bracket else f".{key}")
    return "".join((place[0], *reversed(parts)))


def unsendable(value: Any, where: str, error: TypeError) -> Invalid:
    """Return an error that names the first value that orjson refuses, and its place."""
    reason = str(error)
    if "Recursion" in reason:
        return Invalid(f"{where} is nested more than 254 deep, or contains itself: flatten it", where=where)
    # Walk down: the value to blame is a child that fails by itself, else the value itself.
    for _ in range(256):
        for item, place in _children(value, where):
            try:
                orjson.dumps(item, option=orjson.OPT_NON_STR_KEYS)
            except TypeError as inner:
                value, where, reason = item, place, str(inner)
                break
        else:
            break
    if isinstance(value, int):
        short = value.bit_length() <= _SHOWN_BITS  # Python itself refuses to show a very long one
        shown = str(int(value)) if short else f"an integer of {value.bit_length()} bits"
        return Invalid(f"{where} is {shown}, beyond 64 bits: send it as a string", where=where)
    if isinstance(value, str):
        return Invalid(f"{where} holds a lone surrogate, which UTF-8 cannot carry: {value!r}", where=where)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Invalid(f"{where} is bytes: send bytes as the whole data, or encode them as text", where=where)
    if isinstance(value, dict):
        return Invalid(f"{where} has a key that JSON cannot carry: {reason}", where=where)
    name = type(value).__name__
    return Invalid(f"{where} is of type {name}, which JSON cannot carry: convert it first", where=where)


def _children(value: Any, where: str) -> Iterable[tuple[Any, str]]:
    if isinstance(value, dict):
        return [(item, f"{where}[{key!r}]") for key, item in dict.items(value)]
    if isinstance(value, (list, tuple)):
        return ((item, f"{where}[{index}]") for index, item in enumerate(value))
    if _meant(value) is not value:
        return [(value.value, where)]
    # orjson writes dataclasses as objects, without the fields that begin with an underscore.
    fields = getattr(type(value), "__dataclass_fields__", ())
    shown = [name for name in fields if not name.startswith("_")]
    return ((getattr(value, name, None), f"{where}.{name}") for name in shown)


def parse_exactly(text: str | bytes) -> Any:
    """Return the value of JSON text if a receiver will get exactly that.

    Raises:
        Inexact: some of it would be rounded or dropped: an integer beyond 64 bits, a number with more digits
            than a double holds, a key that comes twice. The error's text says which.
        ValueError: it is not JSON.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise Inexact("it is nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise Inexact(f"the key {twin!r} comes twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) <= _INTEGER_DIGITS and -(2**63) <= (number := int(text)) < 2**64:
        return number
    raise Inexact(f"{_short(text)} is beyond 64 bits: send it as a string")


def _float(text: str) -> float:
    number = float(text)
    if isinf(number) or not _tells(number, text):
        raise Inexact(f"{_short(text)} is more than a double can tell: send it as a string")
    return number


def _tells(number: float, text: str) -> bool:
    """Return whether `number`, rounded to as many digits as `text` has, equals `text`."""
    mantissa, _, exponent = text.lower().lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits or not number:
        return not digits and not number
    shown, _, power = f"{abs(number):.{len(digits) - 1}e}".partition("e")
    return (
        shown.replace(".", "") == digits
        and int(power) == int(exponent or 0) + len(digits) - len(fraction) - 1
    )


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON: send null or a string")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
