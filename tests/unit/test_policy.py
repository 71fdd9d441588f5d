"""Policies: which rule wins, and what a file must look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from zbus import errors
from zbus.policy import SEND, SUBSCRIBE, Policy, Rule


def test_without_rules_the_default_decides() -> None:
    assert Policy([])(SEND, "orders")
    assert Policy([], default="allow")(SUBSCRIBE, "**")
    assert not Policy([], default="deny")(SEND, "orders")
    assert not Policy([], default="deny")(SUBSCRIBE, "orders")


def test_allow_opens_what_the_default_closes() -> None:
    policy = Policy([("allow", SEND, "orders.**")], default="deny")
    assert policy(SEND, "orders.eu")
    assert not policy(SEND, "users")


@pytest.mark.parametrize("order", [1, -1])
def test_deny_wins_whatever_the_order(order: int) -> None:
    rules = [("allow", "*", "orders.**"), ("deny", "*", "orders.secret")][::order]
    policy = Policy(rules, default="allow")
    assert policy(SEND, "orders.eu")
    assert not policy(SEND, "orders.secret")
    assert not policy(SUBSCRIBE, "orders.secret")


def test_a_rule_speaks_of_its_action_only() -> None:
    policy = Policy([("deny", SEND, "orders"), ("deny", SUBSCRIBE, "users")])
    assert not policy(SEND, "orders")
    assert policy(SUBSCRIBE, "orders")
    assert policy(SEND, "users")
    assert not policy(SUBSCRIBE, "users")


@pytest.mark.parametrize(
    "pattern", ["secret.keys", "secret.*", "secret.**", "*.keys", "**.keys", "**", "*", "(a|secret).*"]
)
def test_a_subscription_that_could_receive_a_denied_system_is_denied(pattern: str) -> None:
    assert not Policy([("deny", SUBSCRIBE, "secret.**")])(SUBSCRIBE, pattern)


@pytest.mark.parametrize("pattern", ["orders", "orders.**", "*.*.secret", "(a|b).secret", "secrets"])
def test_a_subscription_that_cannot_is_not(pattern: str) -> None:
    assert Policy([("deny", SUBSCRIBE, "secret.*")])(SUBSCRIBE, pattern)


@pytest.mark.parametrize("pattern", ["orders", "orders.*", "orders.**", "orders.(eu|us)", "orders.eu.**"])
def test_an_allowed_subscription_is_covered_by_the_rule(pattern: str) -> None:
    assert Policy([("allow", SUBSCRIBE, "orders.**")], default="deny")(SUBSCRIBE, pattern)


@pytest.mark.parametrize("pattern", ["*", "**", "(orders|users)", "*.eu", "**.orders"])
def test_a_subscription_that_could_receive_more_than_is_allowed_is_denied(pattern: str) -> None:
    assert not Policy([("allow", SUBSCRIBE, "orders.**")], default="deny")(SUBSCRIBE, pattern)


def test_an_allowing_rule_is_not_fooled_by_a_pattern_that_repeats_itself() -> None:
    # With up to two words in place of `**` the rule matches, with three it does not.
    policy = Policy([("allow", SUBSCRIBE, "**.a.*.*.a.**")], default="deny")
    assert not policy(SUBSCRIBE, "a.a.**.a.a")


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        (("permit", SEND, "orders"), "effect 'permit' is not one of 'allow', 'deny'"),
        (("deny", "send", "orders"), "action 'send' is not one of 'events.subscribe', 'events.send', '*'"),
        (("deny", SEND, "ord*"), "use 'orders.*' or 'orders.**'"),
        (("deny", SEND), "give (effect, action, system)"),
        (5, "give (effect, action, system)"),
    ],
)
def test_a_bad_rule_is_refused_with_advice(rule: tuple[str, str, str], advice: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        Policy([rule])
    assert advice in caught.value.message
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)


@pytest.mark.parametrize("default", ["permit", "", None, True])
def test_the_default_is_allow_or_deny(default: str) -> None:
    with pytest.raises(errors.Invalid, match=r"default .* is not one of 'allow', 'deny'"):
        Policy([], default=default)


def test_rules_and_default_can_be_read_back() -> None:
    policy = Policy([("deny", SEND, "orders")], default="deny")
    assert policy.rules == (Rule("deny", "events.send", "orders"),)
    assert policy.default == "deny"


GOOD = """
default = "deny"

[[rule]]
effect = "allow"
action = "events.send"
system = "orders.**"

[[rule]]  # both actions
effect = "allow"
system = "users"
"""


def test_a_file_says_the_same_as_code(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    policy = Policy.from_toml(path)
    assert policy.rules == (Rule("allow", SEND, "orders.**"), Rule("allow", "*", "users"))
    assert policy.default == "deny"
    assert policy(SEND, "orders.eu")
    assert not policy(SUBSCRIBE, "orders.eu")
    assert policy(SUBSCRIBE, "users")


def test_an_empty_file_allows_everything(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.touch()
    assert Policy.from_toml(str(path))(SEND, "orders")


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"default = perhaps", "(at line 1, column 11)"),
        (b'default = "\xff"', "can't decode byte 0xff"),
        (b'default = "perhaps"', "default 'perhaps' is not one of 'allow', 'deny'"),
        (b"default = 1", "default 1 is not one of 'allow', 'deny'"),
        (b"rules = []", "unknown key 'rules', use 'default' and [[rule]]"),
        (b'[rule]\neffect = "deny"\nsystem = "orders"', "write rules as [[rule]] tables"),
        (b"rule = 5", "write rules as [[rule]] tables"),
        (b"rule = [5]", "give effect and system, and optionally action"),
        (b'[[rule]]\neffect = "deny"', "give effect and system, and optionally action"),
        (b'[[rule]]\nsystem = "orders"', "give effect and system, and optionally action"),
        (b'[[rule]]\neffect = "deny"\nsystem = "s"\nkind = "k"', "give effect and system, and optionally"),
        (b'[[rule]]\neffect = "no"\nsystem = "orders"', "effect 'no' is not one of 'allow', 'deny'"),
        (b'[[rule]]\neffect = 5\nsystem = "orders"', "effect 5 is not one of 'allow', 'deny'"),
        (b'[[rule]]\neffect = "deny"\nsystem = "s"\naction = "send"', "action 'send' is not one of"),
        (b'[[rule]]\neffect = "deny"\nsystem = "s"\naction = []', "action [] is not one of"),
        (b'[[rule]]\neffect = "deny"\nsystem = "ord*"', "use 'orders.*' or 'orders.**'"),
        (b'[[rule]]\neffect = "deny"\nsystem = ""', "system pattern is required"),
        (b'[[rule]]\neffect = "deny"\nsystem = 5', "system must be a string"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_advice(tmp_path: Path, content: bytes, advice: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(errors.Invalid) as caught:
        Policy.from_toml(path)
    assert caught.value.message.startswith(f"policy {path}: ")
    assert advice in caught.value.message
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)


def test_a_file_that_is_not_there_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(errors.Invalid, match="No such file"):
        Policy.from_toml(tmp_path / "none.toml")
