"""Runs the JSON of `vectors/json.json` through the decoder of the package, as the data of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zbus.protocol import wire

from . import plain_peer
from .json_cases import JSON, frame_of, text_of
from .kit.values import same
from .sequences import Case


def wrong(read: Callable[[bytes], Any], refusal: type[Exception]) -> list[str]:
    """Return the ids of the cases, batches excepted, that a reader of JSON gets wrong."""
    found = []
    for verdict in ("accept", "reject"):
        for case in JSON[verdict]:
            if case.get("nested", {}).get("batch"):
                continue
            try:
                value = read(text_of(case))
                good = verdict == "accept" and ("value" not in case or same(value, case["value"]))
            except refusal:
                good = verdict == "reject"
            if not good:
                found.append(case["id"])
    return found


@pytest.mark.parametrize("case", JSON["accept"], ids=lambda case: str(case["id"]))
def test_a_receiver_takes_this_json(case: Case) -> None:
    (event,) = wire.decode(frame_of(case)).events
    assert "value" not in case or same(event.data, case["value"])


@pytest.mark.parametrize("case", JSON["reject"], ids=lambda case: str(case["id"]))
def test_this_is_malformed(case: Case) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(frame_of(case))


def test_a_parser_that_was_tightened_agrees() -> None:
    # Python's own has more in its integers, and less depth.
    assert wrong(plain_peer.decode_json, plain_peer.Malformed) == []


def test_every_case_has_an_id_of_its_own_and_most_are_rejections() -> None:
    ids = [case["id"] for case in JSON["accept"] + JSON["reject"]]
    assert len(set(ids)) == len(ids)
    assert len(JSON["reject"]) > len(JSON["accept"])
