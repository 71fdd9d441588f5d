"""Policies: what a process may send and subscribe to.

A policy protects against mistakes, not against attackers: every process on a bus can forge anything (see
`docs/security.md`). It is asked once for each topic and subscription, never for each event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, NamedTuple

from .errors import Invalid
from .protocol.patterns import Matcher, covers, overlaps, plain

__all__ = ["SEND", "SUBSCRIBE", "Policy", "Rule"]

SUBSCRIBE = "events.subscribe"
SEND = "events.send"
_ACTIONS = (SUBSCRIBE, SEND, "*")
_EFFECTS = ("allow", "deny")


class Rule(NamedTuple):
    """One line of a policy.

    Attributes:
        effect: `"allow"` or `"deny"`.
        action: `"events.subscribe"`, `"events.send"`, or `"*"` for both.
        system: a pattern of systems, for example `orders.**`.
    """

    effect: str
    action: str
    system: str


class Policy:
    """A list of rules. `deny` wins over `allow`; `default` decides where no rule applies.

    A subscription is denied if it could receive any denied system. A rule allows it only if the rule covers
    everything that it could receive.

        Policy([Rule("allow", "events.send", "orders.**")], default="deny")

    A bus also takes any other callable `(action, resource) -> bool` as its policy.
    """

    def __init__(self, rules: Iterable[Rule | tuple[str, str, str]], *, default: str = "allow") -> None:
        """Compile the rules.

        Args:
            rules: `Rule` objects, or tuples of the same three.
            default: `"allow"` or `"deny"`.

        Raises:
            Invalid: an unknown effect, action or default, or a malformed pattern. Not retryable.
        """
        self.default = _one_of(default, _EFFECTS, "default")
        self.rules = tuple(_rule(rule) for rule in rules)
        self._compiled = [(rule, Matcher(rule.system, "system pattern")) for rule in self.rules]

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Policy:
        """Read a policy from a TOML file: `default = "deny"` and `[[rule]]` tables.

        Each rule has an `effect`, a `system`, and optionally an `action`; without one it applies to both.

        Raises:
            Invalid: the file cannot be read or is not a policy; the message says where. Not retryable.
        """
        import tomllib  # not at the top: few programs need it, and it would make `import zbus` slower

        try:
            with open(path, "rb") as file:
                table = tomllib.load(file)
        except (OSError, ValueError) as error:  # ValueError: not TOML, or not even UTF-8
            raise Invalid(f"policy {path}: {error}", path=str(path)) from error
        unknown = sorted(set(table) - {"default", "rule"})
        if unknown:
            raise Invalid(f"policy {path}: unknown key {unknown[0]!r}, use 'default' and [[rule]]")
        rows = table.get("rule", [])
        if not isinstance(rows, list):
            raise Invalid(f"policy {path}: write rules as [[rule]] tables")
        try:
            return cls([_from_table(row) for row in rows], default=table.get("default", "allow"))
        except Invalid as error:
            raise Invalid(f"policy {path}: {error.message}", path=str(path)) from error

    def __call__(self, action: str, resource: str) -> bool:
        """Return whether `action` is allowed on `resource`: a system, or when subscribing a pattern."""
        action, resource = plain(action), plain(resource)
        wanted = Matcher(resource) if action == SUBSCRIBE else None
        verdict = self.default == "allow"
        for rule, matcher in self._compiled:
            if rule.action not in (action, "*"):
                continue
            if rule.effect == "deny":
                hit = overlaps(matcher, wanted) if wanted else matcher.matches(resource)
                if hit:
                    return False
            elif covers(matcher, wanted) if wanted else matcher.matches(resource):
                verdict = True
        return verdict


def _rule(rule: Rule | tuple[str, str, str]) -> Rule:
    try:
        made = Rule(*rule)
    except TypeError as error:
        raise Invalid(f"rule {rule!r}: give (effect, action, system)") from error
    effect = _one_of(made.effect, _EFFECTS, "effect")
    action = _one_of(made.action, _ACTIONS, "action")
    return Rule(effect, action, plain(made.system))


def _from_table(row: Any) -> Rule:
    if not isinstance(row, Mapping) or not {"effect", "system"} <= set(row) <= {"effect", "action", "system"}:
        raise Invalid(f"rule {row!r}: give effect and system, and optionally action")
    if type(plain(row["system"])) is not str:
        raise Invalid(f"rule {row!r}: system must be a string, a pattern such as 'orders.**'")
    return Rule(row["effect"], row.get("action", "*"), row["system"])


def _one_of(value: object, choices: tuple[str, ...], what: str) -> str:
    text = plain(value)
    if type(text) is not str or text not in choices:
        raise Invalid(f"{what} {value!r} is not one of {', '.join(map(repr, choices))}", value=value)
    return text
