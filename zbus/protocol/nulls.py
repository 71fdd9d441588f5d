"""Nulls: whether each null that orjson wrote stands for a `None`.

orjson writes NaN and the infinities as null, too. These are the fast ways to see that it did not. What they
cannot decide, `exact` finds out by following the data.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import date, datetime, time
from enum import Enum
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

__all__ = ["count_nones", "has_nones", "is_finite"]

# A float as `marshal` writes it: a letter and eight bytes. The last bits are the exponent, all ones if the
# float is not finite. Text that looks the same by chance costs only time. The letter's highest bit says that
# the value may come again; one pattern for both letters takes five times as long.
_NON_FINITE = re.compile(rb"g[\s\S]{6}[\xf0-\xff][\x7f\xff]").search
_NON_FINITE_AGAIN = re.compile(rb"\xe7[\s\S]{6}[\xf0-\xff][\x7f\xff]").search
_CONTAINERS = {dict, list, tuple}
_LEAVES = {str, int, float, bool, type(None), datetime, date, time, UUID}
_NULLS = (b"null,", b"null}", b"null]")  # orjson writes no spaces


def count_nones(datas: Iterable[Any]) -> int:
    """Return how many of `datas`, and of the values that they hold, are `None`.

    orjson writes a null for each. If it wrote no more nulls than that, and there are no fragments, everything
    is finite, however deep. This looks at the surface only, and not into what it does not know: it may return
    less.
    """
    found = 0  # a plain loop is the fastest way: 15 ns a value, `sum` and `map` take 30
    try:
        for data in datas:
            if data is None:
                found += 1
                continue
            for value in data.values() if type(data) is dict else _values_of(type(data))(data):
                if value is None:
                    found += 1
    except Exception:  # a dataclass lacks a field, another thread changes a dict
        pass
    return found


def is_finite(value: Any) -> bool:
    """Return whether data is plain, and every number in it is finite.

    Plain data consists of the very classes of JSON's values, and tuples. So it holds no fragment.
    """
    if type(value) not in _CONTAINERS:
        return False
    try:
        # marshal accepts only plain data, so there is no fragment, and its bytes can be searched for floats
        # that are not finite. That is 20 times faster than following the value. Version 4 writes text faster
        # than those before, and writes it once if it comes again.
        written = marshal.dumps(value, 4)
    except ValueError:
        return False
    if 255 not in written and 127 not in written:  # 35 ns each; a pattern takes a ns a byte
        return True
    return not (_NON_FINITE(written) or _NON_FINITE_AGAIN(written))


def has_nones(value: Any, text: bytes) -> bool:
    """Return whether `value` has as many `None` as there are nulls in `text`, which orjson made of it.

    As soon as they are found, the rest does not matter. Like `count_nones`, it does not look into what it
    does not know.
    """
    nulls = sum(map(text.count, _NULLS)) + text.endswith(b"null")
    todo = [value]
    try:
        for item in todo:
            for each in item.values() if type(item) is dict else _values_of(type(item))(item):
                if each is None:
                    nulls -= 1
                elif each.__class__ not in _LEAVES:
                    todo.append(each)
            if not nulls:
                return True
    except Exception:  # as in `count_nones`
        pass
    return False


def _find_values(cls: Any) -> Callable[[Any], Iterable[Any]]:
    """Return what takes an object of this very class and returns values that orjson surely writes."""
    if cls is dict:
        return dict.values
    if cls is list or cls is tuple:
        return iter
    if "__dataclass_fields__" not in cls.__dict__ or issubclass(cls, (str, int, list, dict, Enum)):
        return _nothing
    names = [field.name for field in fields(cls) if not field.name.startswith("_")]
    if len(names) < 2:  # the getters would return one value as it is
        return _nothing
    if "__slots__" in cls.__dict__:
        return attrgetter(*names)
    take = itemgetter(*names)
    return lambda item: take(item.__dict__)


def _nothing(_: object) -> tuple[()]:
    return ()


_values_of: Callable[[type], Callable[[Any], Iterable[Any]]] = lru_cache(256)(_find_values)
