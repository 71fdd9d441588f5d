"""The fast ways to see that all nulls are `None` never say so of what is not finite."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from enum import Enum
from math import inf, nan
from typing import Any, ClassVar
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus import errors
from zbus.protocol import wire
from zbus.protocol.nulls import count_nones, has_nones, is_finite
from zbus.protocol.wire import encode_batch, encode_data

WHEN = datetime(2026, 11, 26, tzinfo=UTC)


@dataclass
class Plain:
    name: str = "a"
    total: Any = 1.5
    note: Any = None


@dataclass(slots=True)
class Slotted:
    name: str = "a"
    total: Any = 1.5
    note: Any = None


@dataclass
class Private:
    """orjson writes no field that begins with an underscore."""

    total: Any = 1.5
    name: Any = "a"
    _note: Any = None


@dataclass
class Bare:
    """A field that is not in `__dict__` is not written, whatever the class says that it is."""

    total: Any = 1.5
    name: Any = "a"
    note: Any = None

    def __post_init__(self) -> None:
        del self.note


@dataclass
class Hidden:
    """What is written is in `__dict__`, and not what the property says."""

    name: str
    total: Any
    note: Any = "b"

    def __getattribute__(self, name: str) -> Any:
        return None if name == "note" else object.__getattribute__(self, name)


@dataclass
class Settings:
    total: Any = 1.5
    name: str = "a"
    limit: ClassVar[Any] = None
    given: InitVar[Any] = None


@dataclass
class Inherited(Slotted):
    more: Any = None


@dataclass(slots=True)
class Both(Plain):
    more: Any = None


@dataclass
class Fields(dict):  # type: ignore[type-arg]
    """orjson writes a dict that is a dataclass, too, as the dict that it is."""

    total: Any = None
    note: Any = None


class Tagged(dict):  # type: ignore[type-arg]
    def values(self) -> Any:
        return [None]


class Boastful(str):
    """Says that it equals whatever it is compared with."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


@dataclass
class Alike:
    """A dataclass that says so."""

    total: Any
    name: str = "a"
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class Member(Enum):
    NONE = None
    PLAIN = Plain()


def hidden(total: Any) -> Hidden:
    return Hidden("a", total)


HOLDERS: dict[str, Any] = {
    "plain": Plain,
    "slots": Slotted,
    "private": Private,
    "bare": Bare,
    "hidden": hidden,
    "settings": Settings,
    "inherited": Inherited,
    "both": Both,
    "a dict that is a dataclass": lambda value: Fields(value) if isinstance(value, dict) else Fields(),
    "a dict that lies": lambda value: Tagged(a=value),
    "a list": lambda value: [value, None],
    "a tuple": lambda value: (None, value, "null"),
    "a dict": lambda value: {"a": None, "b": value, "null": "null,"},
    "one deep in a list": lambda value: [[[value]], WHEN],
    "an enum": lambda value: [Member.NONE, Member.PLAIN, value],
    "text that is like all": lambda value: {"a": Boastful("x"), "b": Boastful("y"), "c": value},
    "objects that are like all": lambda value: [Alike("x"), Alike(value), Alike("y")],
    "beside a date": lambda value: {"when": WHEN, "id": UUID(int=1), "more": [value, None]},
}
leaves = st.sampled_from([None, 0, 1.5, "a", "null", True, WHEN, nan, inf, -inf, Member.NONE])
datas = st.recursive(
    leaves,
    lambda inner: st.builds(lambda wrap, value: wrap(value), st.sampled_from([*HOLDERS.values()]), inner),
)


def is_exact(data: Any) -> bool:
    """Return whether data has nothing that is not finite where orjson writes it, by reading the text back."""
    try:
        wire.verify(data, orjson.dumps(data), "data", odd=True)  # follows the data, value by value
    except errors.Invalid:
        return False
    return True


@given(datas)
def test_they_say_so_only_if_following_the_data_says_so(data: Any) -> None:
    text = orjson.dumps(data)
    nulls = text.count(b"null")
    sure = is_finite(data) or has_nones(data, text) or (nulls == count_nones((data,)))
    assert is_exact(data) or not sure


@given(st.lists(datas, min_size=1, max_size=4))
def test_a_send_and_a_batch_refuse_what_following_the_data_refuses(several: list[Any]) -> None:
    for data in several:
        if is_exact(data):
            encode_data(data)
        else:
            with pytest.raises(errors.Invalid, match="which JSON cannot carry: send None or a string"):
                encode_data(data)
    rows = [("/null", data) for data in several]
    if is_exact(several):
        encode_batch(rows)
    else:
        with pytest.raises(errors.Invalid, match="which JSON cannot carry: send None or a string"):
            encode_batch(rows)


@pytest.mark.parametrize("wrap", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_one_none_does_not_hide_what_is_not_finite(wrap: Any, value: float) -> None:
    data, text = wrap({"a": value, "b": 1}), orjson.dumps(wrap({"a": value, "b": 1}))
    assert count_nones((data,)) <= text.count(b"null")
    if b'"a":null' in text:
        assert not has_nones([data], orjson.dumps([data]))
        assert not is_finite([data])
        with pytest.raises(errors.Invalid, match="which JSON cannot carry"):
            encode_data(data)
    else:  # orjson does not write this field
        encode_data(data)


FAST = {
    "flat": {"a": None, "b": 1.5, "c": "text"},
    "nested": {"id": "1", "items": [{"sku": "2", "rebate": None, "n": 255}, {"sku": "3", "rebate": 1.5}]},
    "numbers whose bytes look odd": {"a": [None, 127, 255, -1, 99.99, 1e300, -1e300, "g\0\xff\x7f" * 9]},
    "a number twice": [WHEN.timestamp(), None, WHEN.timestamp()],
    "a date": {"when": WHEN, "none": None},
    "nested dates": {
        "items": [{"when": WHEN, "none": None, "text": "null and void"}, WHEN.time(), WHEN.date()]
    },
    "a dataclass": Plain(),
    "a dataclass with slots": Slotted(),
    "a dataclass with private fields": Private(None),
    "dataclasses": {"when": WHEN, "items": [Plain(note=[Slotted()]), (Plain(), None)]},
}


@pytest.mark.parametrize("data", FAST.values(), ids=FAST)
def test_common_data_with_a_null_is_not_followed(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(*_: object) -> None:
        raise AssertionError("value by value, which is thirty times as slow")

    monkeypatch.setattr("zbus.protocol.exact._follow", follow)
    monkeypatch.setattr("zbus.protocol.wire.fragments_about", lambda: False)
    monkeypatch.setattr("zbus.protocol.exact.fragments_about", lambda: False)
    assert orjson.loads(encode_data(data)) == orjson.loads(orjson.dumps(data))
    encode_batch([("/1", data), ("/null", data), ("/3", None)])


def test_a_dict_that_another_thread_changes_raises_nothing() -> None:
    class Changing(list):  # type: ignore[type-arg]
        pass

    data: dict[str, Any] = {"a": 1}

    class Grows:
        """What the loop over the values meets first adds a key."""

        @property
        def __class__(self) -> Any:  # type: ignore[override]
            data[f"key {len(data)}"] = None
            return str

    data["b"] = Grows()
    data["c"] = 1
    assert has_nones(data, b"{null,null}") is False


@dataclass
class Odd:
    name: Any = field(default=None)


def test_a_dataclass_of_one_field_is_left_to_others() -> None:
    assert count_nones((Odd(),)) == 0
    assert orjson.loads(encode_data(Odd())) == {"name": None}
    with pytest.raises(errors.Invalid, match=r"data\.name is nan"):
        encode_data(Odd(nan))
