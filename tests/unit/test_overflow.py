"""The table of overflow policies."""

from __future__ import annotations

from typing import get_args

from zbus.options import Overflow
from zbus.receiving.overflow import OVERFLOW_POLICIES


def test_each_overflow_that_subscribe_takes_has_a_row() -> None:
    assert tuple(OVERFLOW_POLICIES) == get_args(Overflow)
