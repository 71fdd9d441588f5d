"""Time-outs: what a caller may pass, and what libzmq gets."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus import errors
from zbus.options import check_timeout
from zbus.runtime.timeouts import milliseconds


def test_none_is_for_ever() -> None:
    assert check_timeout(None) == inf
    assert milliseconds(check_timeout(None)) == -1


@pytest.mark.parametrize("timeout", [0, 1, 2.5, inf])
def test_seconds_come_back_as_a_float(timeout: float) -> None:
    checked = check_timeout(timeout)
    assert checked == timeout
    assert type(checked) is float


@pytest.mark.parametrize("timeout", [-1, -0.001, -inf, nan])
def test_no_time_is_negative(timeout: float) -> None:
    with pytest.raises(errors.Invalid, match="give seconds from 0, or None to wait forever") as caught:
        check_timeout(timeout)
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)


@pytest.mark.parametrize("timeout", ["1", True, False, [], 1j])
def test_a_wrong_type_is_a_mistake_in_the_program(timeout: object) -> None:
    with pytest.raises(TypeError, match="must be seconds as a number, or None"):
        check_timeout(timeout)


def test_the_message_names_the_argument() -> None:
    with pytest.raises(errors.Invalid, match=r"^linger is -1"):
        check_timeout(-1, "linger")
    with pytest.raises(TypeError, match=r"^linger must"):
        check_timeout("1", "linger")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, 0), (1e-9, 1), (0.001, 1), (0.0011, 2), (1.0, 1000), (2.5, 2500)]
)
def test_milliseconds_round_up(seconds: float, expected: int) -> None:
    assert milliseconds(seconds) == expected


@given(st.floats(min_value=0, max_value=2e6))
def test_libzmq_never_wakes_early_nor_more_than_a_millisecond_late(seconds: float) -> None:
    assert 0 <= milliseconds(seconds) - seconds * 1000 <= 1


@given(st.floats(max_value=0, allow_infinity=False, exclude_max=True, min_value=-1e9))
def test_what_is_overdue_does_not_wait(seconds: float) -> None:
    assert milliseconds(seconds) == 0


@pytest.mark.parametrize("seconds", [2147484.0, 1e306, float(10**300)])
def test_libzmq_gets_no_number_that_it_cannot_take(seconds: float) -> None:
    assert milliseconds(seconds) == 2**31 - 1


def test_a_number_beyond_floats_is_for_ever() -> None:
    assert check_timeout(10**400) == inf
