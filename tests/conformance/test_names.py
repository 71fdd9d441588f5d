"""Runs the file names, sentinels and bus names of `vectors/names.json` through the package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zbus.errors import Invalid
from zbus.protocol.sentinels import parse_sentinel, sentinel
from zbus.roster.file_names import is_member, is_scratch, is_socket, parse_entry
from zbus.roster.location import default_root, locate

from .sequences import Case, read

NAMES = read("names.json")


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", NAMES[name], ids=lambda case: str(case["id"]))


@each("files")
def test_a_file_is_what_its_name_says(case: Case) -> None:
    name = case["name"]
    entry = parse_entry(name)
    assert (entry and entry._asdict()) == case.get("entry")
    found = [what for what, test in KINDS.items() if test(name)]
    assert found == ([case["is"]] if case.get("is") in KINDS else [])
    assert (name == "token") is (case.get("is") == "token")


KINDS = {"socket": is_socket, "member": is_member, "new": is_scratch}


@each("sentinels")
def test_a_publisher_reads_only_sentinels(case: Case) -> None:
    expected = (case["ingress"], case["epoch"]) if "epoch" in case else None
    topic = bytes.fromhex(case["topic_hex"])
    assert parse_sentinel(topic) == expected
    assert expected is None or sentinel(*expected) == topic


@each("buses")
def test_a_bus_has_a_name_of_this_form(case: Case) -> None:
    if case["valid"]:
        assert locate("/run/zbus", case["name"]) == Path("/run/zbus/v1") / case["name"]
        return
    with pytest.raises(Invalid):
        locate("/run/zbus", case["name"])


@each("roots")
def test_the_root_is_found_by_these_variables(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in case["environment"].items():
        monkeypatch.setenv(variable, value)
    assert str(default_root()) == case["root"].replace("<uid>", str(os.geteuid()))


def test_every_case_has_an_id_of_its_own_and_most_are_rejections() -> None:
    cases = [case for rows in NAMES.values() if isinstance(rows, list) for case in rows]
    assert len({case["id"] for case in cases}) == len(cases)
    good = [case for case in cases if case.get("valid") or case.keys() & {"entry", "is", "epoch", "root"}]
    assert 2 * len(good) < len(cases)
