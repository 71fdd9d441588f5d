"""The tree of errors: what a caller can catch and read."""

from __future__ import annotations

import pytest

from zbus import errors

LEAVES = [errors.Canceled, errors.Invalid, errors.PermissionDenied, errors.Timeout, errors.Unavailable]


@pytest.mark.parametrize("leaf", LEAVES)
def test_one_except_clause_catches_every_error(leaf: type[errors.Error]) -> None:
    with pytest.raises(errors.Error):
        raise leaf("no")


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_text_is_the_message_alone(leaf: type[errors.Error]) -> None:
    error = leaf("too long: shorten it", limit=5)
    assert str(error) == error.message == "too long: shorten it"


@pytest.mark.parametrize("leaf", LEAVES)
def test_details_are_facts_by_name(leaf: type[errors.Error]) -> None:
    assert leaf("no", limit=5, path="/x").details == {"limit": 5, "path": "/x"}
    assert leaf("no").details == {}


def test_every_kind_is_named_as_in_the_original_bus() -> None:
    kinds = {leaf.__name__: leaf.kind for leaf in LEAVES}
    assert kinds == {
        "Canceled": "Canceled",
        "Invalid": "Invalid",
        "PermissionDenied": "PermissionDenied",
        "Timeout": "Timeout",
        "Unavailable": "Unavailable",
    }


def test_the_constants_are_the_kinds() -> None:
    constants = {
        errors.CANCELED,
        errors.INVALID,
        errors.PERMISSION_DENIED,
        errors.TIMEOUT,
        errors.UNAVAILABLE,
    }
    assert constants == {leaf.kind for leaf in LEAVES}


def test_a_mistake_is_not_worth_a_retry() -> None:
    assert not errors.Invalid("no").retryable
    assert not errors.Canceled("no").retryable
    assert not errors.PermissionDenied("no").retryable


def test_a_timeout_is_always_worth_a_retry() -> None:
    assert errors.Timeout("no").retryable


def test_unavailable_says_for_itself_whether_to_retry() -> None:
    assert errors.Unavailable("disk full", retryable=True).retryable
    assert not errors.Unavailable("no such call").retryable


@pytest.mark.parametrize(
    ("leaf", "builtin"),
    [
        (errors.Invalid, ValueError),
        (errors.Timeout, TimeoutError),
        (errors.PermissionDenied, PermissionError),
    ],
)
def test_the_built_in_error_of_that_meaning_catches_it_too(
    leaf: type[errors.Error], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="no"):
        raise leaf("no")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/tmp/café", "/tmp/café"),
        ("/tmp/caf\udce9", r"/tmp/caf\xe9"),
        ("/tmp/\ud800", r"/tmp/\ud800"),
        ("", ""),
    ],
)
def test_every_message_can_be_printed(text: str, shown: str) -> None:
    error = errors.Unavailable(text, path=text)
    assert ascii(error.message) == ascii(str(error)) == ascii(shown)
    assert error.details["path"] is text
