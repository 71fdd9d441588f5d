"""Why a pattern does not select a name, and what would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus.observe.mismatch import compare, similar_names
from zbus.protocol.patterns import Matcher

ONE = "'*' takes exactly one segment, '**' any number"
WORDS = st.sampled_from(["orders", "Orders", "order", "eu", "eu-west", "created", "x"])
NAMES = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
SEGMENTS = st.one_of(WORDS, st.sampled_from(["*", "**", "(eu|us)", "(orders|sales)"]))
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "name", "why", "instead"),
    [
        ("orders.**", "orders", "", "orders.**"),
        ("Orders.**", "orders.eu", "letter case: 'Orders' is not 'orders'", "orders.**"),
        ("orders.*", "orders", ONE, "orders.**"),
        ("orders.*", "orders.eu.west", ONE, "orders.**"),
        ("*.created", "order.x.created", ONE, "**.created"),
        ("order.*.created", "order.created", ONE, "order.**.created"),
        ("orders", "orders.eu", "'orders' does not select what is below it", "orders.**"),
        ("orders.eu", "orders", "the name has no 'eu' there", "orders"),
        ("order.*", "orders.eu", "'order' is not 'orders'", "orders.*"),
        ("(orders|sales).**", "ordres.eu", "'orders' is not 'ordres'", "ordres.**"),
        (
            "orders.created",
            "orders.eu.created",
            "nothing in the pattern stands for 'eu'",
            "orders.eu.created",
        ),
        ("metrics.cpu", "orders.eu", "it selects other names", ""),
    ],
)
def test_what_differs_and_what_would_do(pattern: str, name: str, why: str, instead: str) -> None:
    found = compare(pattern, name)
    assert (found.why, found.instead) == (why, instead)


@given(PATTERNS, NAMES)
def test_the_distance_is_0_exactly_if_it_matches_and_a_proposal_always_does(pattern: str, name: str) -> None:
    found = compare(pattern, name)
    matches = Matcher(pattern).matches(name)
    assert (found.distance == 0) == (found.why == "") == matches
    if found.instead:
        assert Matcher(found.instead).matches(name)


def test_a_long_name_takes_no_time_that_anyone_notices() -> None:
    assert compare(".".join(["**", "a"] * 60), ".".join(["a"] * 120 + ["b"])).distance > 0


def test_names_that_may_have_been_meant() -> None:
    names = ["orders", "order", "Orders", "orders.eu", "sales", "metrics.cpu"]
    assert similar_names("orders", names) == ["order", "Orders", "orders.eu"]
