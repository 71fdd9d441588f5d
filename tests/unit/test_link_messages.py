"""What a link makes of an event: the subject and the headers of a NATS message, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbus.links.headers import decode, encode
from zbus.links.subject import filter_for, parse_subject, subject
from zbus.protocol.patterns import Matcher
from zbus.protocol.relayed import Relayed, is_via, relayed_template, via_after, via_in
from zbus.protocol.wire import Malformed
from zbus.protocol.wire import decode as decode_frame

A, B = "a" * 16, "b" * 16
EVENT = Relayed(
    "5f0c9a1b2c3d4e5f", "orders.eu", "order.created", 7, A, b"/orders/1", b"1764192207000001", b"{}"
)

SUBJECTS = [
    (("main", "orders", "created"), "zbus.main.orders.created"),
    (("main", "orders.eu", "order.created"), "zbus.main.orders.eu.order%2Ecreated"),
    (("my.bus", "a b", "x>y"), "zbus.my%2Ebus.a%20b.x%3Ey"),
    (("main", "größe", "100%"), "zbus.main.gr%C3%B6%C3%9Fe.100%25"),
    (("main", "a\tb", "#1"), "zbus.main.a%09b.#1"),
]

segment = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0*()|."), min_size=1, max_size=8
)
name = st.lists(segment, min_size=1, max_size=3).map(".".join)


@pytest.mark.parametrize(("names", "text"), SUBJECTS)
def test_a_subject_says_bus_system_and_kind(names: tuple[str, str, str], text: str) -> None:
    assert subject(*names) == text
    assert parse_subject(text) == names


@given(name, name, name)
def test_a_subject_is_plain_ascii_and_can_be_read_back(bus: str, system: str, kind: str) -> None:
    text = subject(bus, system, kind)
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" *>")
    assert parse_subject(text) == (bus, system, kind)


@pytest.mark.parametrize("text", ["zbus", "zbus.a", "zbus.a.b", "other.a.b.c", "zbus.a.%FF.c"])
def test_other_subjects_are_none_of_a_link(text: str) -> None:
    assert parse_subject(text) is None


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (["orders"], "zbus.*.orders.>"),
        (["orders.**"], "zbus.*.orders.>"),
        (["orders.eu", "orders.us.*"], "zbus.*.orders.>"),
        (["orders", "stock"], "zbus.*.>"),
        (["(a|b).c"], "zbus.*.>"),
        (["a b"], "zbus.*.a%20b.>"),
    ],
)
def test_a_filter_admits_what_any_of_the_patterns_selects(patterns: list[str], text: str) -> None:
    assert filter_for([Matcher(pattern) for pattern in patterns]) == text


@pytest.mark.parametrize(
    "item",
    [
        EVENT,
        EVENT._replace(path='/größe 100%\r\n"x"'.encode(), time=b"", body=b""),
        EVENT._replace(body=b"\0"),
        EVENT._replace(body=b"\0\0\1\2", via=f"{A}-{B}"),
        EVENT._replace(system="a b", kind="c>d.größe", body=b'[1, 2,  "x"]'),
        Relayed(EVENT.origin, "orders", "created", 9, A, first=5),
        Relayed(EVENT.origin, "orders", "created", 9, A),
    ],
)
def test_what_is_encoded_can_be_decoded(item: Relayed) -> None:
    headers, body = encode(item)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert decode((item.system, item.kind), headers, body) == item


def test_an_event_is_a_cloud_event_in_binary_mode() -> None:
    headers, body = encode(EVENT)
    assert body == b"{}"
    assert headers == {
        "Nats-Msg-Id": "5f0c9a1b2c3d4e5f.orders.eu.order.created.7",
        "ce-specversion": "1.0",
        "ce-id": "5f0c9a1b2c3d4e5f.orders.eu.order.created.7",
        "ce-source": "/zbus/orders.eu",
        "ce-type": "order.created",
        "ce-subject": "/orders/1",
        "ce-time": "2025-11-26T21:23:27.000001Z",
        "ce-datacontenttype": "application/json",
        "zbus-origin": "5f0c9a1b2c3d4e5f",
        "zbus-seq": "7",
        "zbus-via": A,
    }


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"zbus-origin": "XYZ"}, b"{}"),
        ({"zbus-origin": ""}, b"{}"),
        ({"zbus-via": ""}, b"{}"),
        ({"zbus-via": "a.b"}, b"{}"),
        ({"zbus-via": "-".join([A] * 33)}, b"{}"),
        ({"zbus-seq": "0"}, b"{}"),
        ({"zbus-seq": "1" * 20}, b"{}"),
        ({"zbus-seq": "\u0667"}, b"{}"),
        ({"ce-subject": ""}, b"{}"),
        ({"ce-subject": "a%00b"}, b"{}"),
        ({"ce-subject": "%FF"}, b"{}"),
        ({}, b"{"),
        ({}, b""),
        ({}, b"\0x"),
        ({}, b"NaN"),
        ({"ce-datacontenttype": "text/plain"}, b"hello"),
        ({"ce-datacontenttype": ""}, b"{}"),
        ({"zbus-lost": "7-5"}, b""),
        ({"zbus-lost": "x"}, b""),
        ({"zbus-next": "0"}, b""),
    ],
)
def test_what_is_malformed_is_refused(changes: dict[str, str], body: bytes) -> None:
    headers, _ = encode(EVENT)
    with pytest.raises(Malformed):
        decode((EVENT.system, EVENT.kind), headers | changes, body)


@pytest.mark.parametrize("names", [("zbus", "x"), ("zbus.a", "x"), ("a..b", "x"), ("a*", "x"), ("a", "")])
def test_names_are_checked(names: tuple[str, str]) -> None:
    with pytest.raises(Malformed):
        decode(names, encode(EVENT)[0], b"{}")


def test_a_time_that_cannot_be_read_counts_as_untold() -> None:
    headers, body = encode(EVENT)
    for text in ("", "yesterday", "2025-11-26T21:23:27", "1969-12-31T23:59:59Z"):
        assert decode(("orders", "x"), headers | {"ce-time": text}, body).time == b""


def test_a_relayed_frame_says_where_it_has_been_and_not_when_its_stream_was_born() -> None:
    template = relayed_template(("5f0c9a1b2c3d4e5f", "orders", "100%"), A, 81, 5)
    frame = template % (b"/x", 7, b"1764192207000000", b"{}")
    assert frame == b"orders\x00100%\0/x\x005f0c9a1b2c3d4e5f.7..81.5.1764192207000000." + A.encode() + b"\0{}"
    stamp = decode_frame(frame).stamp
    assert stamp == ("5f0c9a1b2c3d4e5f", 7, -1, 81, 5, 1764192207000000)
    rest = frame.split(b"\0", 4)[3].split(b".", 6)[6]
    assert via_in(rest) == A


def test_without_a_clock_a_relayed_frame_tells_neither_settled_nor_first() -> None:
    assert b".7....17." in relayed_template(("5f0c9a1b", "a", "b"), A, -1, 5) % (b"/x", 7, b"17", b"")


@pytest.mark.parametrize(
    "rest", [b"", b"xyz", b".", b"\xff", b"aaaa.b", A.encode() + b"-", A.upper().encode()]
)
def test_other_stamps_name_no_bus(rest: bytes) -> None:
    assert via_in(rest) == ""


def test_a_bus_is_added_at_the_end() -> None:
    assert via_after("", A) == A
    assert via_after(A, B) == f"{A}-{B}"
    assert is_via(via_after(A, B))
