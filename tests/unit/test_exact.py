"""What orjson would write as something else is refused, wherever it is."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum
from math import inf, nan
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus import errors
from zbus.protocol.wire import decode_data, encode_batch, encode_data


class Number(Enum):
    NAN = nan
    INF = inf
    NONE = None
    LIST = (1, [-inf])
    NESTED = [{"a": nan}]  # noqa: RUF012


class Again(Enum):
    NAN = Number.NAN
    NONE = Number.NONE


class Real(float, Enum):
    NAN = nan


class Small(IntEnum):
    ONE = 1


@dataclass
class Plain:
    total: Any = None
    _private: Any = None


@dataclass(slots=True)
class Slotted:
    total: Any = None


@dataclass
class Child:
    name: str
    note: str | None = None
    _parent: Any = field(default=None, repr=False)


class MyDict(dict):  # type: ignore[type-arg]
    """Shows nothing of what is in it."""

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0

    def items(self) -> Any:
        return []


class MyList(list):  # type: ignore[type-arg]
    """Shows nothing of what is in it."""

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class Text(str):
    """Equals nothing but itself."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def extended(value: Any) -> Plain:
    made = Plain(1)
    made.more = value  # type: ignore[attr-defined]  # orjson writes what is in `__dict__`
    return made


WAYS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [1, value],
    "tuple": lambda value: (1, value),
    "dict": lambda value: {"a": None, "b": value},
    "dict of odd keys": lambda value: {1: None, 2: value},
    "list subclass": lambda value: MyList([value]),
    "dict subclass": lambda value: MyDict(a=value),
    "ordered": lambda value: OrderedDict(a=value),
    "default": lambda value: defaultdict(int, a=value),
    "dataclass": Plain,
    "dataclass with slots": Slotted,
    "dataclass with more attributes": extended,
    "member of an enum": lambda value: Enum("Made", {"A": value}).A,  # type: ignore[attr-defined]
    "member of an enum in a member of an enum": lambda value: (
        Enum(
            "Made",
            {"A": Enum("Inner", {"B": [value]}).B},  # type: ignore[attr-defined]
        ).A
    ),
}
way = pytest.mark.parametrize("wrap", WAYS.values(), ids=WAYS)
any_two_ways = st.tuples(st.sampled_from(list(WAYS.values())), st.sampled_from(list(WAYS.values())))


def refused(data: Any) -> str:
    """Return the message of the refusal, which is the same alone and in a batch."""
    with pytest.raises(errors.Invalid) as caught:
        encode_data(data)
    with pytest.raises(errors.Invalid):
        encode_batch([("/1", 1), ("/2", data)])
    return caught.value.message


def carried(data: Any) -> Any:
    """Return what a receiver gets, which is the same alone and in a batch."""
    got = decode_data(encode_data(data))
    text, count = encode_batch([("/1", data)])
    assert (decode_data(text), count) == ([["/1", got]], 1)
    return got


# -- NaN and the infinities


@way
@pytest.mark.parametrize("value", [nan, inf, -inf, Number.NAN, Number.INF, Again.NAN, Real.NAN])
def test_what_is_not_finite_is_refused_wherever_it_is(wrap: Callable[[Any], Any], value: Any) -> None:
    assert "which JSON cannot carry: send None or a string" in refused(wrap(value))


@given(any_two_ways, st.sampled_from([nan, inf, -inf]))
def test_and_however_deep(wraps: tuple[Callable[[Any], Any], ...], value: float) -> None:
    assert "which JSON cannot carry" in refused(wraps[0](wraps[1](value)))


@pytest.mark.parametrize("value", [Number.LIST, Number.NESTED, {"a": [Number.LIST]}])
def test_also_within_the_value_of_an_enum(value: Any) -> None:
    assert "which JSON cannot carry" in refused(value)


@way
@pytest.mark.parametrize("value", [None, Number.NONE, Again.NONE])
def test_none_arrives_wherever_it_is(wrap: Callable[[Any], Any], value: Any) -> None:
    assert b"null" in encode_data(wrap(value))
    carried(wrap(value))


@pytest.mark.parametrize("key", [nan, inf, Number.NAN, Again.NAN, Real.NAN])
def test_a_key_that_is_not_finite_is_refused(key: Any) -> None:
    for data in ({key: 1}, [{key: 1, "a": None}], Plain({key: 1})):
        assert "which JSON cannot carry: use a string" in refused(data)


@pytest.mark.parametrize("key", [None, Number.NONE, "null", Text("null")])
def test_a_key_may_be_none_or_null(key: Any) -> None:
    assert carried({key: 1}) == {"null": 1}


def test_twin_keys_are_found_by_their_text() -> None:
    for twins in ({Text("a"): 1, Text("a"): 2}, {"a": 1, Text("a"): 2}, {Small.ONE: 1, "1": 2}):
        assert "one key in JSON" in refused([twins])


def test_text_that_looks_like_a_number_that_is_not_finite_is_none() -> None:
    text = "g\0\0\0\0\0\0\xf0\x7f g\0\0\0\0\0\0\u07ff null"
    assert carried({"a": text, "b": None}) == {"a": text, "b": None}


# -- what refers to itself


def test_a_reference_back_that_orjson_does_not_follow_is_nothing_to_refuse() -> None:
    child = Child("a")
    child._parent = {"child": child}
    assert carried(child) == {"name": "a", "note": None}


def test_what_contains_itself_is_refused() -> None:
    ring: list[Any] = [None]
    ring.append(ring)
    loop: dict[str, Any] = {}
    loop["again"] = [loop]
    plain, slotted = Plain(), Slotted()
    plain.total, slotted.total = [plain], (slotted,)
    made = Enum("Made", {"A": [1]}).A  # type: ignore[attr-defined]
    made.value.append(made)
    for data in (ring, loop, plain, slotted, made):
        assert "or contains itself: flatten it" in refused(data)


@pytest.mark.parametrize("frames", [900])
def test_a_caller_deep_in_the_stack_gets_the_same_answers(frames: int) -> None:
    def deeper(left: int) -> None:
        if left:
            return deeper(left - 1)
        deep: Any = nan
        for _ in range(100):
            deep = Plain([deep])
        with pytest.raises(errors.Invalid, match="is nan, which"):
            encode_data(deep)
        return None

    limit = sys.getrecursionlimit()
    depth = len([*frames_here()])
    deeper(limit - depth - 40)


def frames_here() -> Any:
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def test_what_is_wrong_with_a_dataclass_is_not_sought_where_orjson_does_not_look() -> None:
    assert refused(Plain({1, 2}, _private=object())).startswith("data.total is of type set")
    assert refused(extended(2**64)).startswith("data") is True


def test_an_integer_too_long_to_show_is_refused_all_the_same() -> None:
    assert refused([10**5000]) == "data[0] is an integer of 16610 bits, beyond 64 bits: send it as a string"


def test_a_memoryview_that_was_released_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(errors.Invalid, match="a memoryview that cannot be read"):
        encode_data(view)


def test_what_orjson_documents_goes_as_it_says() -> None:
    when = datetime(2026, 11, 25, tzinfo=UTC)
    data = {"when": when, "id": UUID(int=5), "kind": Small.ONE, "none": None, Text("key"): Text("text")}
    assert carried(data) == {
        "when": "2026-11-25T00:00:00+00:00",
        "id": "00000000-0000-0000-0000-000000000005",
        "kind": 1,
        "none": None,
        "key": "text",
    }


# -- fragments


BAD = [b"", b"{bad", b"\0bytes", b"1,2", b'1,"b":2', b"1],[2", b"nan", b"NaN", b"1e999", b"2" * 30, b'"\xff"']
BAD += [b'"\\ud800"', b'{"a":1,"a":2}', b"1 2", b"[" * 2000, b'1],["/3",2', "\ufeff1".encode()]


@way
@pytest.mark.parametrize("text", BAD)
def test_a_fragment_that_would_go_out_as_something_else_is_refused(
    wrap: Callable[[Any], Any], text: bytes
) -> None:
    assert "orjson.Fragment" in refused(orjson.Fragment(text))
    assert "orjson.Fragment" in refused(wrap(orjson.Fragment(text)))
    assert "orjson.Fragment" in refused(wrap(wrap(orjson.Fragment(text))))


@way
@pytest.mark.parametrize("text", [b"1", b"null", b' {"a": [1.5, null]} ', b'"text"', "[true]"])
def test_a_fragment_that_is_one_json_value_goes_as_it_is(wrap: Callable[[Any], Any], text: Any) -> None:
    value = orjson.loads(text)
    assert carried(orjson.Fragment(text)) == value
    assert carried(wrap(orjson.Fragment(text))) == orjson.loads(
        orjson.dumps(wrap(value), option=orjson.OPT_NON_STR_KEYS)
    )


UNNOTICED = """
import orjson
{before}
from zbus import errors
from zbus.sending import sender
from zbus.protocol.exact import fragments_about
from zbus.protocol.wire import encode_batch, encode_data

def about():
    assert (sender._refs(sender._Fragment) != sender._NO_FRAGMENTS) == fragments_about()
    return fragments_about()

counts = sender._NO_FRAGMENTS >= 0
assert about() == bool({alive} or not counts), (about(), counts)
kept = None
assert about() == (not counts), "all are gone, or this version of orjson cannot be asked"
for round in range(3):
    data = {{"a": [1, (orjson.Fragment(b"{{bad"),)]}}
    assert about()
    for call in (lambda: encode_data(data), lambda: encode_batch([("/1", data)])):
        try:
            call()
        except errors.Invalid:
            continue
        raise SystemExit("went out")
    del data
    assert about() == (not counts)
"""


@pytest.mark.parametrize(
    ("before", "alive"),
    [
        ("kept = None", False),
        ("kept = [orjson.Fragment(b'1')] * 3", True),
        ("kept = {'a': (orjson.Fragment(b'1'), orjson.Fragment(b'2'))}", True),
        ("kept = [orjson.Fragment(b'%d' % n) for n in range(100)]; import gc; gc.collect()", True),
    ],
)
def test_a_fragment_is_noticed_and_costs_nothing_when_there_is_none(before: str, alive: bool) -> None:
    """In a process of its own, since pytest refers to anything."""
    program = UNNOTICED.format(before=before, alive=alive)
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


@pytest.mark.skipif(
    orjson.__version__ < "3.13", reason="its Fragments are not counted: every text is verified"
)
def test_this_version_of_orjson_can_be_asked() -> None:
    program = "from zbus.sending import sender; assert sender._NO_FRAGMENTS > 0"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
