"""What a link to other machines has carried: in the tables of `ls` and `top`, and as metrics."""

from __future__ import annotations

import zbus
from zbus.cli.link_facts import link_facts
from zbus.cli.peer_table import lines
from zbus.cli.top_table import view
from zbus.observe.snapshot import snapshot
from zbus.roster.numbers import LinkCounts

from .test_metrics import found
from .test_snapshot import NOW, member, numbers, seen

LINK = LinkCounts("hub:4222", 1204, 7, 3, 0, 0, 250, 0, 2, 1.5, "")
TOLD = numbers(NOW)._replace(link=LINK)
TEXT = "link to hub:4222, carried 1,204 out and 7 in, refused 3, waiting 250, reconnects 2, lag 1.5 s"


def test_a_link_says_where_it_is_connected_and_what_it_has_carried() -> None:
    assert ", ".join(link_facts(LINK)) == TEXT
    assert [*link_facts(None)] == []


def test_a_link_that_is_not_connected_says_why() -> None:
    down = LinkCounts("", 0, 0, 0, 5, 0, 0, 0, 0, 0.0, "connection \x1b[2J refused" + "x" * 999)
    texts = [*link_facts(down)]
    assert texts[:3] == ["link, not connected", "carried 0 out and 0 in", "dropped 5"]
    assert texts[3].startswith("connection ")
    assert texts[3].isprintable()
    assert len(texts[3]) < 300


def test_the_table_of_peers_shows_it() -> None:
    shown = [*lines([member("out", numbers=TOLD)], None)]
    assert TEXT in shown[1][0]


def test_a_snapshot_has_it_and_its_table_shows_it() -> None:
    bus = snapshot(seen(member("out"), member("web"), out=(TOLD, None), web=(numbers(NOW), None)))
    assert {row.id: row.link for row in bus.members} == {"out": LINK, "web": None}
    parts = view(bus, bus, "rate", None, None).renderables
    cells = [str(cell) for cell in parts[1].columns[-1].cells]  # type: ignore[union-attr]
    assert cells[0].split("\n") == [TEXT, ""]


def test_only_links_have_metrics_of_a_link() -> None:
    told = {"out": (TOLD, None), "web": (numbers(NOW), None)}
    by_name = found(member("out"), member("web"), **told)
    labels = ("shop", "out", "out.py")
    assert by_name["zbus_link_sent_events"].samples == {labels: 1204.0}
    assert by_name["zbus_link_waiting_events"].samples == {labels: 250.0}
    assert by_name["zbus_link_lag_seconds"].samples == {labels: 1.5}
    assert by_name["zbus_link_connected"].samples == {labels: 1.0}
    assert not [name for name in found(member("web"), web=told["web"]) if "link" in name]


def test_peers_without_numbers_are_no_links() -> None:
    assert "link" not in [*lines([zbus.Peer(*member("web"))], None)][1][0]
