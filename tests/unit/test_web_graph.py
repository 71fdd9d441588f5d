"""Who sends what to whom, as the page is told it."""

from __future__ import annotations

from zbus.observe.snapshot import snapshot
from zbus.web.graph import graph

from .test_snapshot import NOW, member, numbers, seen, shop, subscriber, topic


def test_topics_have_the_ends_of_their_arrows_and_members_what_they_have_lost() -> None:
    found = graph(shop(), 0)
    names = {key: row["name"] for key, row in found["members"].items()}
    orders, users = found["topics"]
    assert (orders["name"], orders["note"], orders["rate"], orders["faint"]) == (
        "orders.eu k",
        "24/s",
        24.0,
        False,
    )
    assert {names[one] for one in orders["publishers"]} == {"web.py", "mail.py"}
    assert {names[one] for one in orders["subscribers"]} == {"mail.py", "log.py"}
    assert [names[one] for one in users["subscribers"]] == ["log.py"]
    assert {row["name"]: row["lost"] for row in found["members"].values()} == {
        "web.py": 0,
        "mail.py": 0,
        "log.py": 4,
    }


def test_members_that_do_the_same_are_one_and_their_losses_are_added() -> None:
    alike = [member(f"m{number}", process="worker", counters={"lost": 2}) for number in range(3)]
    listening = [subscriber(f"m{number}", ("a", "*")) for number in range(3)]
    [worker] = graph(snapshot(seen(*alike, *listening)), 0)["members"].values()
    assert (worker["name"], worker["note"], worker["lost"]) == ("worker", "3 processes", 6)


def test_the_page_is_left_out_with_all_that_it_sends_and_selects() -> None:
    """Another process of a container may have the same process id, and may send."""
    sent = numbers(NOW, (topic("a", 3),)), None
    bus = snapshot(
        seen(
            member("me", pid=1),
            member("other", pid=2),
            subscriber("me", ("*", "*"), pid=1),
            subscriber("other", ("none", "*"), pid=2),
            me=sent,
            other=sent,
        )
    )
    found = graph(bus, 1)
    [(key, row)] = found["members"].items()
    assert row["name"] == "other.py"
    ends = [(row["name"], row["publishers"], row["subscribers"], row["faint"]) for row in found["topics"]]
    assert ends == [("a k", [key], [], True), ("none *", [], [key], True)]
