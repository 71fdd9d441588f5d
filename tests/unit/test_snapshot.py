"""A look at a whole bus: rates from one look, and who sends and receives which topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus.observe.arrange import SORT_KEYS, filtered, ordered
from zbus.observe.rates import latest_rates
from zbus.observe.snapshot import Look, Snapshot, snapshot
from zbus.roster.numbers import Publications
from zbus.roster.peers import Peers

from .published import channel, numbers, topic

NOW = 1_000.0


def member(id: str, **fields: Any) -> zbus.Peer:
    blank = zbus.Peer(f"{id}.py", 7, "c", "member", "", [], True, {"lost": 0}, id, "me", [], id)
    return blank._replace(**fields)


def subscriber(member: str, *patterns: tuple[str, str], id: str = "", **fields: Any) -> zbus.Peer:
    blank = zbus.Peer(
        f"{member}.py",
        7,
        "c",
        "subscriber",
        "drop",
        [*patterns],
        True,
        {},
        id or f"in-{member}",
        "me",
        [],
        member,
    )
    return blank._replace(**fields)


def seen(*peers: zbus.Peer, **told: tuple[zbus.Numbers | None, zbus.Numbers | None]) -> Look:
    """Return a look at these peers; `told` has the latest publication of each and the one before."""
    found = Peers(Path("/run/zbus/v1/shop"))
    found += peers
    return Look(NOW, found, {name: Publications(*both) for name, both in told.items()})


# rates from one look


def rate(latest: zbus.Numbers, former: zbus.Numbers | None) -> float | None:
    found = latest_rates({"m": Publications(latest, former)}, NOW)
    return found["m"].events if found else None


def test_a_rate_is_over_the_time_between_the_last_two_publications() -> None:
    assert rate(numbers(NOW, (topic("a", 30),)), numbers(NOW - 2, (topic("a", 10),))) == 10.0


def test_who_was_idle_for_long_was_so_until_a_second_before() -> None:
    assert rate(numbers(NOW, (topic("a", 30),)), numbers(NOW - 500, (topic("a", 10),))) == 20.0


def test_who_publishes_nothing_any_more_is_idle() -> None:
    assert rate(numbers(NOW - 10, (topic("a", 30),)), numbers(NOW - 11, (topic("a", 10),))) == 0.0
    assert rate(numbers(NOW - 10, (topic("a", 30),)), None) == 0.0


def test_who_has_published_once_has_no_rates_yet() -> None:
    assert rate(numbers(NOW, (topic("a", 30),)), None) is None


def test_with_many_topics_a_process_takes_longer_and_is_not_idle() -> None:
    many = numbers(NOW - 8, (topic("a", 30),))._replace(topics=60_000)
    assert rate(many, numbers(NOW - 16, (topic("a", 10),))) == 2.5


# the join


def shop() -> Snapshot:
    return snapshot(
        seen(
            member("web"),
            member("mail"),
            member("log", counters={"lost": 4}),
            subscriber("mail", ("orders.**", "*")),
            subscriber("log", ("*", "*"), ("users", "k")),
            web=(
                numbers(NOW, (topic("orders.eu", 30, 3_000), topic("users", 5, 50))),
                numbers(NOW - 1, (topic("orders.eu", 10, 1_000), topic("users", 5, 50))),
            ),
            mail=(
                numbers(NOW, (topic("orders.eu", 4, 400),), (channel(system="orders.**", received=20),)),
                numbers(NOW - 1, (), (channel(system="orders.**", received=10),)),
            ),
            log=(
                numbers(NOW, (), (channel(system="*", received=8, lost=4, unread=1.5),)),
                numbers(NOW - 2, (), (channel(system="*", received=2, lost=1),)),
            ),
        )
    )


def test_members_have_rates_losses_lag_and_patterns() -> None:
    web, mail, log = shop().members
    assert (web.out, web.out_bytes, web.received, web.lag, web.sent_total) == (20.0, 2_000.0, 0, None, 35)
    assert (mail.out, mail.received, mail.received_bytes) == (4.0, 10.0, 1_000.0)
    assert (log.received, log.lost, log.losing, log.lag) == (3.0, 4, 1.5, 1.5)
    assert [tuple(pattern) for pattern in mail.patterns] == [("orders.**", "*", "drop")]


def test_topics_add_up_all_who_send_and_name_all_who_select_them() -> None:
    orders, users = shop().topics
    assert (orders.system, orders.kind, orders.out, orders.out_bytes) == ("orders.eu", "k", 24.0, 2_400.0)
    assert (orders.size, orders.sent_total) == (100.0, 34)
    assert (orders.publishers, orders.subscribers) == (("web", "mail"), ("log", "mail"))
    assert (orders.lag, orders.lost) == (1.5, 4)
    assert (users.out, users.publishers, users.subscribers) == (0.0, ("web",), ("log",))


def test_between_two_looks_rates_are_of_that_time() -> None:
    first, second = (numbers(time, (topic("a", count),)) for time, count in ((NOW - 10, 0), (NOW, 50)))
    before = seen(member("web", numbers=first), web=(first, None))._replace(time=NOW - 10)
    now = seen(member("web", numbers=second), web=(second, numbers(NOW - 1, (topic("a", 49),))))
    assert snapshot(now, before).members[0].out == 5.0
    assert snapshot(now).members[0].out == 1.0


def test_a_subscriber_without_a_member_stands_for_itself() -> None:
    found = snapshot(
        seen(member("web"), subscriber("", ("a", "*"), id="tap"), web=(numbers(NOW, (topic("a", 1),)), None))
    )
    assert [row.id for row in found.members] == ["web", "tap"]
    assert (found.members[1].out, found.members[1].lag) == (None, None)
    assert found.topics[0].subscribers == ("tap",)
    assert found.topics[0].out is None


def test_the_dead_select_nothing() -> None:
    gone = subscriber("", ("a", "*"), id="tap", alive=False)
    assert snapshot(seen(gone, web=(numbers(NOW, (topic("a", 1),)), None))).topics[0].subscribers == ()


def test_who_stands_still_with_unread_events_gets_older() -> None:
    stopped = numbers(NOW - 60, (), (channel(unread=2.0),))
    idle = numbers(NOW - 60, (), (channel(unread=0.0),))
    recent = numbers(NOW - 1, (), (channel(unread=2.0),))
    found = snapshot(
        seen(*map(member, ("s", "i", "r")), s=(stopped, None), i=(idle, None), r=(recent, None))
    ).members
    assert [row.lag for row in found] == [62.0, 0.0, 2.0]


def test_patterns_that_are_none_select_nothing() -> None:
    odd = subscriber("web", ("a*", "*"), ("**", ")("))
    assert (
        snapshot(seen(member("web"), odd, web=(numbers(NOW, (topic("a", 1),)), None))).topics[0].subscribers
        == ()
    )


# order and choice


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("rate", "web"),
        ("out", "web"),
        ("in", "mail"),
        ("bytes", "web"),
        ("lost", "log"),
        ("lag", "log"),
        ("name", "log"),
    ],
)
def test_members_are_sorted_by_each_column(key: str, first: str) -> None:
    assert ordered(shop(), key).members[0].id == first


def test_topics_are_sorted_too() -> None:
    assert {key: ordered(shop(), key).topics[0].system for key in SORT_KEYS} == dict.fromkeys(
        SORT_KEYS, "orders.eu"
    )


@pytest.mark.parametrize(
    ("wanted", "members", "topics"),
    [
        ("orders.**", "web mail log", "orders.eu"),
        ("(users|x)", "web log", "users"),
        ("mail", "mail web", "orders.eu"),
        ("USERS", "web log", "users"),
        ("log", "log", ""),
        ("nothing", "", ""),
        ("web.py", "web mail", "orders.eu users"),
    ],
)
def test_a_filter_is_a_pattern_or_a_part_of_a_name(wanted: str, members: str, topics: str) -> None:
    found = filtered(shop(), wanted)
    assert {row.id for row in found.members} == {*members.split()}
    assert {row.system for row in found.topics} == {*topics.split()}


def test_a_filter_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(zbus.Invalid, match="'ord\\*' is not a system pattern"):
        filtered(shop(), "ord*")
