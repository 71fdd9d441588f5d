"""Runs the vectors, which peers in other languages run too, through the Python package."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zbus.errors import Invalid
from zbus.event import Event
from zbus.protocol.patterns import Matcher, check_text, prefixes
from zbus.protocol.wire import (
    CONTROL,
    Malformed,
    Stamp,
    check_sendable,
    decode,
    encode_batch,
    encode_data,
    frame_template,
)

from .sequences import Case, read

PATTERNS = read("patterns.json")
WIRE = read("wire.json")


def cases(name: str) -> pytest.MarkDecorator:
    """Run a test once for each case of a list of `wire.json`."""
    return pytest.mark.parametrize("case", WIRE[name], ids=lambda case: str(case["id"]))


def names(case: Case) -> str:
    return f"{case['pattern']} {case['name']}"


def strict(data: Any) -> str:
    """Return a text that differs where JSON values do: `1 == True` and `0 == False` in Python."""
    return json.dumps(data, sort_keys=True)


@pytest.mark.parametrize("case", PATTERNS["upstream"] + PATTERNS["zbus"], ids=names)
def test_a_pattern_selects_what_the_vectors_say(case: Case) -> None:
    assert Matcher(case["pattern"]).matches(case["name"]) is case["match"]


MATCHING = [case for case in PATTERNS["upstream"] + PATTERNS["zbus"] if case["match"]]


@pytest.mark.parametrize("case", MATCHING, ids=names)
def test_prefixes_admit_a_topic_whose_system_is_selected(case: Case) -> None:
    topic = f"{case['name']}\0any.kind\0".encode()
    assert topic.startswith(prefixes(Matcher(case["pattern"])))
    assert topic.startswith(prefixes(Matcher(case["pattern"]), Matcher("any.*")))


@pytest.mark.parametrize("case", MATCHING, ids=names)
def test_prefixes_admit_a_topic_whose_kind_is_selected(case: Case) -> None:
    topic = f"a.system\0{case['name']}\0".encode()
    assert topic.startswith(prefixes(Matcher("a.system"), Matcher(case["pattern"])))


@pytest.mark.parametrize("pattern", PATTERNS["invalid"], ids=repr)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid):
        Matcher(pattern)


@pytest.mark.parametrize("case", PATTERNS["prefixes"], ids=lambda case: str(case["id"]))
def test_a_channel_subscribes_exactly_these_prefixes(case: Case) -> None:
    kind = None if case["kind"] is None else Matcher(case["kind"])
    expected = tuple(prefix.encode() for prefix in case["prefixes"])
    assert prefixes(Matcher(case["system"]), kind) == expected


def stamp_of(case: Case) -> Stamp:
    fields = (case.get(name, -1) for name in ("born", "settled", "first", "time"))
    return Stamp(case["origin"], case["seq"], *fields)


@cases("accept")
def test_a_frame_holds_what_the_vectors_say(case: Case) -> None:
    frame = decode(bytes.fromhex(case["frame_hex"]))
    assert (frame.system, frame.kind) == (case["system"], case["kind"])
    assert frame.stamp == stamp_of(case)
    assert [told(event) for event in frame.events] == [expected(case, row) for row in case["events"]]
    time = case["time"] / 1e6 if "time" in case else None
    assert {event.time for event in frame.events} <= {time}


def told(event: Event) -> tuple[Any, ...]:
    data = event.data.hex() if isinstance(event.data, bytes) else strict(event.data)
    return event.system, event.kind, event.origin, event.path, event.seq, type(event.data) is bytes, data


def expected(case: Case, row: Case) -> tuple[Any, ...]:
    data = row["data_hex"] if "data_hex" in row else strict(row["data"])
    return case["system"], case["kind"], case["origin"], row["path"], row["seq"], "data_hex" in row, data


@cases("control")
def test_a_control_frame_is_no_event(case: Case) -> None:
    frame = bytes.fromhex(case["frame_hex"])
    assert frame.startswith(CONTROL)
    with pytest.raises(Malformed):
        decode(frame)


@cases("reject")
def test_a_frame_that_breaks_a_rule_is_malformed(case: Case) -> None:
    frame = bytes.fromhex(case["frame_hex"])
    assert not frame.startswith(CONTROL)
    with pytest.raises(Malformed, match=r"\w"):
        decode(frame)


@cases("encode")
def test_a_publisher_sends_these_bytes(case: Case) -> None:
    check_sendable(case["system"], case["kind"])
    path = case.get("path", "").encode()
    if "items" in case:
        data, count = encode_batch([(item[0], item[1]) for item in case["items"]])
        assert count == len(case["items"])
    else:
        data = encode_data(bytes.fromhex(case["data_hex"]) if "data_hex" in case else case["data"])
    frame = frame_template(case["system"], case["kind"], stamp_of(case))
    fields = (frame % (path, case["seq"], str(case.get("time", "")).encode(), data)).split(b"\0", 4)
    fields[3] = fields[3].rstrip(b".")  # empty fields at the end mean nothing
    assert b"\0".join(fields) == bytes.fromhex(case["frame_hex"])


@cases("refuse")
def test_a_publisher_refuses_these_names(case: Case) -> None:
    with pytest.raises(Invalid):
        check_event(case["system"], case["kind"], case["path"])


def check_event(system: str, kind: str, path: str) -> None:
    check_sendable(system, kind)
    check_text(path, "path")


def test_every_wire_vector_has_an_id_of_its_own_and_most_are_rejections() -> None:
    lists = [WIRE[name] for name in ("accept", "control", "reject", "encode", "refuse")]
    ids = [case["id"] for rows in lists for case in rows]
    assert len(set(ids)) == len(ids)
    assert 2 * len(WIRE["reject"]) >= sum(map(len, lists))


def test_of_all_vectors_at_least_half_are_rejections() -> None:
    """The sequences of `loss.json` are neither."""
    patterns = PATTERNS["upstream"] + PATTERNS["zbus"]
    names = read("names.json")
    accepted = sum(case["match"] for case in patterns) + len(PATTERNS["prefixes"])
    rejected = sum(not case["match"] for case in patterns) + len(PATTERNS["invalid"])
    for file in (WIRE, read("json.json"), read("stamps.json"), read("refuse.json")):
        for name, cases in file.items():
            if isinstance(cases, list):
                bad = name in ("control", "reject", "refuse") or "refused" in name
                accepted, rejected = accepted + len(cases) * (not bad), rejected + len(cases) * bad
    for case in names["files"] + names["sentinels"] + names["buses"] + names["roots"]:
        good = case.get("valid") or case.keys() & {"entry", "is", "epoch", "root"}
        accepted, rejected = accepted + bool(good), rejected + (not good)
    assert rejected >= accepted


def test_every_wire_vector_shows_people_the_frame_it_gives_machines() -> None:
    for name in ("accept", "control", "reject", "encode"):
        for case in WIRE[name]:
            text = bytes.fromhex(case["frame_hex"]).decode("utf-8", "backslashreplace")
            assert case["text"] == text.replace("\0", "␀"), case["id"]


def test_no_two_wire_vectors_share_a_frame() -> None:
    frames = [case["frame_hex"] for case in WIRE["accept"] + WIRE["control"] + WIRE["reject"]]
    assert len(set(frames)) == len(frames)
