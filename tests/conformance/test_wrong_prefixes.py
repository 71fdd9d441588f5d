"""The vectors notice a channel that subscribes other prefixes than those of W22."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import plain_peer
from .sequences import read


def no_kinds(system: str, kind: str | None) -> list[str]:
    return plain_peer.prefixes(system, None)


def first_alternative(system: str, kind: str | None) -> list[str]:
    return plain_peer.prefixes(system, kind)[:1]


def no_end(system: str, kind: str | None) -> list[str]:
    return [prefix.removesuffix("\0") for prefix in plain_peer.prefixes(system, kind)]


def no_dots(system: str, kind: str | None) -> list[str]:
    return [prefix.removesuffix(".") for prefix in plain_peer.prefixes(system, kind)]


def kind_after_anything(system: str, kind: str | None) -> list[str]:
    return [
        prefix if "\0" in prefix or kind is None else f"{prefix}\0{kind}"
        for prefix in plain_peer.prefixes(system, kind)
    ]


def nothing_literal(system: str, kind: str | None) -> list[str]:
    return [""]


def double_star_as_star(system: str, kind: str | None) -> list[str]:
    return plain_peer.prefixes(system.replace("a.**", "a.*").replace("s.**", "s.*"), kind)


def up_to(most: int) -> Callable[[str, str | None], list[str]]:
    def limited(system: str, kind: str | None) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain_peer, "MAX_PREFIXES", most)
            return plain_peer.prefixes(system, kind)

    return limited


def wrong_prefixes(subscribe: Callable[[str, str | None], list[str]]) -> list[str]:
    """Return the ids of the cases that a peer with these subscriptions fails."""
    cases = read("patterns.json")["prefixes"]
    return [case["id"] for case in cases if subscribe(case["system"], case["kind"]) != case["prefixes"]]


def test_the_plain_peer_subscribes_what_the_vectors_say() -> None:
    assert wrong_prefixes(plain_peer.prefixes) == []


SUBSCRIBERS = {
    "no kinds": no_kinds,
    "only the first alternative": first_alternative,
    "no NUL at the end": no_end,
    "no dot before a wildcard": no_dots,
    "the kind after a wildcard": kind_after_anything,
    "everything": nothing_literal,
    "a dot before **": double_star_as_star,
    "15 alternatives": up_to(15),
    "17 alternatives": up_to(17),
    "any number of alternatives": up_to(10**6),
}


@pytest.mark.parametrize("mistake", SUBSCRIBERS)
def test_a_peer_with_other_prefixes_fails(mistake: str) -> None:
    assert wrong_prefixes(SUBSCRIBERS[mistake])
