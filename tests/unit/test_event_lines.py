"""How `zbus sub` shows an event."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from zbus.cli.event_lines import human_line, json_line
from zbus.event import Event


def sent_at(time: float | None) -> Event:
    return Event("orders", "order.created", "/orders/1", {"total": 9.5}, "0123abcd", 7, time)


def test_a_line_begins_with_the_local_time_to_the_millisecond() -> None:
    time = 1764192207.123999
    day = datetime.fromtimestamp(time).strftime("%H:%M:%S")
    assert human_line(sent_at(time)) == f'{day}.123  orders  order.created  /orders/1  {{"total":9.5}}'


@pytest.mark.parametrize("time", [None, 9_999_999_999_999.999999, 1e300])
def test_a_line_has_a_dash_where_there_is_no_time(time: float | None) -> None:
    assert human_line(sent_at(time)) == '-  orders  order.created  /orders/1  {"total":9.5}'


@pytest.mark.parametrize("time", [None, 0.0, 1764192207.000001, 9_999_999_999_999.999])
def test_a_json_line_has_every_field_as_it_is(time: float | None) -> None:
    assert json.loads(json_line(sent_at(time))) == {
        "system": "orders",
        "kind": "order.created",
        "path": "/orders/1",
        "data": {"total": 9.5},
        "origin": "0123abcd",
        "seq": 7,
        "time": time,
    }
