"""Names and patterns, held against a reference that shares nothing with them: regular expressions."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus import errors
from zbus.protocol.patterns import Matcher, check_name, check_text, covers, overlaps, prefixes

WORDS = ["a", "b", "ab", "주"]
SEGMENTS = [*WORDS, "*", "**", "(a|b)", "(ab|주|c)"]

names = st.lists(st.sampled_from([*WORDS, "x"]), min_size=1, max_size=6).map(".".join)
patterns = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(".".join)


def reference(pattern: str) -> re.Pattern[str]:
    """Return an expression that matches a selected name with a dot behind it."""
    if pattern == "*":
        pattern = "**"
    parts = []
    for segment in pattern.split("."):
        if segment == "**":
            parts.append(r"([^.]+\.)*")
        elif segment == "*":
            parts.append(r"[^.]+\.")
        else:
            parts.append(rf"(?:{'|'.join(map(re.escape, segment.strip('()').split('|')))})\.")
    return re.compile("".join(parts))


def selects(pattern: str, name: str) -> bool:
    return reference(pattern).fullmatch(f"{name}.") is not None


@given(patterns, names)
def test_a_matcher_agrees_with_the_reference(pattern: str, name: str) -> None:
    assert Matcher(pattern).matches(name) is selects(pattern, name)


def test_a_matcher_agrees_with_the_reference_on_every_short_pattern_and_name() -> None:
    short = [".".join(words) for size in (1, 2, 3) for words in product("abx", repeat=size)]
    for size in (1, 2, 3):
        for segments in product(["a", "*", "**", "(a|b)"], repeat=size):
            pattern = ".".join(segments)
            matcher, expression = Matcher(pattern), reference(pattern)
            for name in short:
                expected = expression.fullmatch(f"{name}.") is not None
                assert matcher.matches(name) is expected, (pattern, name)


def test_a_name_of_many_segments_takes_no_exponential_time() -> None:
    pattern = ".".join(["**.a"] * 12) + ".b"
    assert not Matcher(pattern).matches(".".join("a" * 2000))


def test_a_matcher_keeps_the_pattern_as_given() -> None:
    assert Matcher("*").pattern == "*"
    assert Matcher("orders.(eu|us)").pattern == "orders.(eu|us)"


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*", True), ("**", True), ("**.**", True), ("*.*", False), ("a.**", False)]
)
def test_everything_tells_a_pattern_without_a_condition(pattern: str, expected: bool) -> None:
    assert Matcher(pattern).everything is expected


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("", "pattern is required"),
        ("a\0b", "contains NUL, which separates fields: remove it"),
        (
            "a\ud800",
            "lone surrogate at position 1, which UTF-8 cannot carry: decode it with errors='replace'",
        ),
        (">", "for everything below use '**', not '>'"),
        ("orders.>", "for everything below use '**', not '>'"),
        ("orders.#", "for everything below use '**', not '#'"),
        ("+.orders", "for exactly one segment use '*', not '+'"),
        ("a..b", "it has an empty segment, use single dots between words, or '**' for any depth"),
        (".a", "it has an empty segment"),
        ("a.", "it has an empty segment"),
        ("ord*", "a wildcard is a whole segment, use 'orders.*' or 'orders.**'"),
        ("a.***", "a wildcard is a whole segment, use 'orders.*' or 'orders.**'"),
        ("()", "a bracket lists whole literal segments, use '(a|b)'"),
        ("(a||b)", "a bracket lists whole literal segments, use '(a|b)'"),
        ("(a|*)", "a bracket lists whole literal segments, use '(a|b)'"),
        ("((a|b))", "a bracket lists whole literal segments, use '(a|b)'"),
        ("(a", "a bracket opens and closes within one segment, use '(a|b)'"),
        ("a|b", "a bracket opens and closes within one segment, use '(a|b)'"),
        ("(a.b|c)", "a bracket opens and closes within one segment, use '(a|b)'"),
        ("x(a|b)", "a bracket opens and closes within one segment, use '(a|b)'"),
    ],
)
def test_a_malformed_pattern_is_refused_with_the_form_to_use(pattern: str, advice: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        Matcher(pattern)
    assert advice in caught.value.message
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)
    assert caught.value.details == {"value": pattern}


def test_the_message_shows_the_whole_pattern_and_what_it_is_for() -> None:
    with pytest.raises(errors.Invalid, match=r"^'eu\.ord\*' is not a system pattern: "):
        Matcher("eu.ord*", "system pattern")


@pytest.mark.parametrize("value", [None, 5, b"orders", ["orders"]])
def test_a_pattern_of_a_wrong_type_is_a_mistake_in_the_program(value: object) -> None:
    with pytest.raises(TypeError, match="pattern must be a str, not"):
        Matcher(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["/orders/1", "*", "(a|b)", "..", " ", "주문", ">#+"])
def test_a_text_may_be_anything_else(text: str) -> None:
    assert check_text(text, "path") == text


@pytest.mark.parametrize("name", ["orders", "a.b.c", "주문.생성", "with space", ">", "a+b", "#"])
def test_a_name_is_segments_between_dots(name: str) -> None:
    assert check_name(name, "system") == name


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("", "system is required"),
        ("a\0b", "system 'a\\x00b' contains NUL, which separates fields: remove it"),
        ("\udcff", "system '\\udcff' holds a lone surrogate at position 0"),
        ("orders.*", "contains '*', which only a subscription may use: send a literal name"),
        ("a(b", "contains '('"),
        ("a)b", "contains ')'"),
        ("a|b", "contains '|'"),
        (".", "has an empty segment: use single dots between words"),
        ("a..b", "has an empty segment"),
        (".a", "has an empty segment"),
        ("a.", "has an empty segment"),
    ],
)
def test_a_bad_name_is_refused_with_advice(name: str, advice: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        check_name(name, "system")
    assert advice in caught.value.message
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)


@given(names)
def test_every_name_is_a_pattern_that_selects_itself(name: str) -> None:
    assert Matcher(check_name(name, "system")).matches(name)


@given(patterns, st.none() | patterns, names, names)
def test_prefixes_admit_every_topic_that_is_selected(
    system: str, kind: str | None, system_name: str, kind_name: str
) -> None:
    subscriptions = prefixes(Matcher(system), None if kind is None else Matcher(kind))
    if selects(system, system_name) and (kind is None or selects(kind, kind_name)):
        assert f"{system_name}\0{kind_name}\0/p\0\0".encode().startswith(subscriptions)


@given(patterns, st.none() | patterns)
def test_prefixes_are_few_distinct_and_in_order(system: str, kind: str | None) -> None:
    subscriptions = prefixes(Matcher(system), None if kind is None else Matcher(kind))
    assert 1 <= len(subscriptions) <= 16
    assert list(subscriptions) == sorted(set(subscriptions))


@pytest.mark.parametrize(
    ("system", "kind", "expected"),
    [
        ("orders", None, [b"orders\0"]),
        ("orders", "*", [b"orders\0"]),
        ("orders", "order.created", [b"orders\0order.created\0"]),
        ("orders", "order.*", [b"orders\0order."]),
        ("orders", "order.**", [b"orders\0order"]),
        ("orders.*", "order.created", [b"orders."]),
        ("orders.**", None, [b"orders"]),
        ("(a|b).c", "(x|y)", [b"a.c\0x\0", b"a.c\0y\0", b"b.c\0x\0", b"b.c\0y\0"]),
        ("(a|b).*.c", None, [b"a.", b"b."]),
        ("*", None, [b""]),
        ("*.created", "x", [b""]),
        ("**.state", None, [b""]),
    ],
)
def test_prefixes_are_as_long_as_the_literal_part(
    system: str, kind: str | None, expected: list[bytes]
) -> None:
    assert list(prefixes(Matcher(system), None if kind is None else Matcher(kind))) == expected


def test_alternatives_that_multiply_are_cut_before_the_bracket() -> None:
    assert prefixes(Matcher("(a|b).(a|b).(a|b).(a|b).(a|b)"))[0] == b"a.a.a.a."
    assert len(prefixes(Matcher("a"), Matcher("(" + "|".join("abcdefghijklmnopq") + ")"))) == 1


SHORT = [".".join(words) for size in range(1, 7) for words in product("abx", repeat=size)]
"""Enough names for patterns of up to three segments over `a` and `b`: `x` is a word in none of them."""


def selected(pattern: str) -> int:
    """Return the set of short names that the reference selects, as the bits of a number."""
    expression = reference(pattern)
    return sum(1 << bit for bit, name in enumerate(SHORT) if expression.fullmatch(f"{name}."))


def test_overlaps_and_covers_agree_with_brute_force_on_every_short_pattern() -> None:
    segments = ["a", "b", "*", "**", "(a|b)"]
    texts = [".".join(parts) for size in (1, 2, 3) for parts in product(segments, repeat=size)]
    sets = {text: selected(text) for text in texts}
    matchers = {text: Matcher(text) for text in texts}
    for left, right in product(texts, repeat=2):
        common = sets[left] & sets[right]
        assert overlaps(matchers[left], matchers[right]) is (common != 0), (left, right)
        assert covers(matchers[left], matchers[right]) is (common == sets[right]), (left, right)


@given(patterns, patterns, names)
def test_a_covered_pattern_selects_nothing_more(outer: str, inner: str, name: str) -> None:
    if covers(Matcher(outer), Matcher(inner)) and selects(inner, name):
        assert selects(outer, name)


@given(patterns, patterns, names)
def test_patterns_that_do_not_overlap_share_no_name(left: str, right: str, name: str) -> None:
    if selects(left, name) and selects(right, name):
        assert overlaps(Matcher(left), Matcher(right))


@given(patterns, patterns)
def test_overlap_does_not_ask_who_is_first(left: str, right: str) -> None:
    assert overlaps(Matcher(left), Matcher(right)) is overlaps(Matcher(right), Matcher(left))


def test_covers_is_not_fooled_by_a_pattern_that_repeats_itself() -> None:
    outer, inner = "**.a.*.*.a.**", "a.a.**.a.a"
    assert selects(inner, "a.a.x.x.x.a.a")
    assert not selects(outer, "a.a.x.x.x.a.a")
    assert not covers(Matcher(outer), Matcher(inner))


def test_covers_says_no_in_doubt() -> None:
    many = ".".join(["(a|b|c|d|e|f|g|h)"] * 5)
    assert not covers(Matcher("*.*.*.*.*"), Matcher(many))
    assert covers(Matcher("**"), Matcher(many))
