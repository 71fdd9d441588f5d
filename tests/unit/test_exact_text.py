"""JSON text is taken exactly or refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus.protocol.exact import parse_exactly
from zbus.protocol.wire import decode_data, encode_data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1.0", 1.0),
        ("-0.0", -0.0),
        ("0e5", 0.0),
        ("0.1", 0.1),
        ("1.7976931348623157e308", sys.float_info.max),
        ("5e-324", 5e-324),
        ("2.2250738585072014E-308", sys.float_info.min),
        ("0.1000000000000000055511151231257827", 0.1),
        ("100000000000000000000.0", 1e20),
        ("1E+2", 100.0),
        ('{"a": [1, {"a": null}]}', {"a": [1, {"a": None}]}),
    ],
)
def test_text_that_can_be_carried_is(text: str, value: Any) -> None:
    for given_as in (text, text.encode()):
        got = parse_exactly(given_as)
        assert (repr(got), type(got)) == (repr(value), type(value))
        assert decode_data(encode_data(got)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("18446744073709551616", "is beyond 64 bits: send it as a string"),
        ("-9223372036854775809", "is beyond 64 bits"),
        ("[" + "9" * 5000 + "]", "is beyond 64 bits"),
        ("1e400", "is more than a double can tell: send it as a string"),
        ("1e-400", "is more than a double can tell"),
        ("1e-" + "9" * 5000, "is more than a double can tell"),
        ("9007199254740993.0", "is more than a double can tell"),
        ("0.1234567890123456789", "is more than a double can tell"),
        ("NaN", "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' comes twice in one object"),
        ("[" * 100_000, "nested too deep"),
        ("", "Expecting value"),
        ("{'a': 1}", "Expecting property name"),
        ("1 2", "Extra data"),
        ('"\n"', "Invalid control character"),
        ("\ufeff1", "Expecting value"),
    ],
)
def test_text_that_cannot_be_carried_is_refused(text: str, reason: str) -> None:
    for given_as in (text, text.encode()):
        with pytest.raises(ValueError, match=reason):
            parse_exactly(given_as)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    for text in (b'"\xff"', '"a"'.encode("utf-16")):
        with pytest.raises(ValueError, match="utf-8"):
            parse_exactly(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_taken_as_its_shortest_text_and_as_a_longer_one(number: float) -> None:
    assert parse_exactly(repr(number)) == number
    assert parse_exactly(f"{number:.25e}") == number
