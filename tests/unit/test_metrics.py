"""What a bus counts, as families of metrics."""

from __future__ import annotations

from zbus.observe.metrics import Family, families

from .test_snapshot import NOW, channel, member, numbers, seen, subscriber, topic


def found(*peers: object, **told: object) -> dict[str, Family]:
    return {family.name: family for family in families(seen(*peers, **told))}  # type: ignore[arg-type]


def test_only_members_that_are_alive_have_samples() -> None:
    told = numbers(NOW, (topic("a", 3),)), None
    by_name = found(member("web"), member("gone", alive=False), subscriber("web"), web=told, gone=told)
    assert by_name["zbus_members"].samples == {("shop",): 1.0}
    assert by_name["zbus_sent_events"].samples == {("shop", "web", "web.py"): 3.0}
    assert by_name["zbus_lost_events"].samples == {("shop", "web", "web.py"): 0.0}
    assert len(by_name["zbus_topic_sent_events"].samples) == 1


def test_every_sample_has_a_value_for_each_label() -> None:
    told = numbers(NOW, (topic("a", 3),), (channel(),)), None
    for family in found(member("web"), web=told).values():
        assert {len(labels) for labels in family.samples} <= {len(family.labels)}


def test_what_a_process_that_stands_still_has_not_read_gets_older() -> None:
    stopped = numbers(NOW - 60, (), (channel(unread=2.0), channel(2, unread=None)))
    [(labels, age)] = found(member("web"), web=(stopped, None))["zbus_channel_unread_seconds"].samples.items()
    assert (labels[3], age) == ("1", 62.0)
