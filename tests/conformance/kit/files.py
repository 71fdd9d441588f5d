"""The vectors of the directory: names of files, sentinels, buses and roots, and live numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ..member_files import CASES as NUMBERS
from ..member_files import content
from ..sequences import Case, read
from .results import Result
from .session import Judge, Session
from .values import same

__all__ = ["names", "numbers"]


def names(session: Session, judge: Judge) -> Iterator[Result]:
    """Yield the results of `names.json`."""
    vectors = read("names.json")
    for case in vectors["files"]:
        asked = [{"hex": case["name"].encode().hex()}]
        wanted = case.get("entry") or ({"is": case["is"]} if "is" in case else None)
        yield judge.result("names", case["id"], lambda a=asked, w=wanted: _ask(session, "files", a, w))
    for case in vectors["sentinels"]:
        asked = [{"hex": case["topic_hex"]}]
        wanted = {"ingress": case["ingress"], "epoch": case["epoch"]} if "epoch" in case else None
        yield judge.result("names", case["id"], lambda a=asked, w=wanted: _ask(session, "sentinels", a, w))
    for case in vectors["buses"]:
        asked, wanted = [{"name": case["name"]}], case["valid"]
        yield judge.result("names", case["id"], lambda a=asked, w=wanted: _ask(session, "buses", a, w))
    for case in vectors["roots"]:
        asked = [{"env": case["environment"]}]
        wanted = case["root"].replace("<uid>", str(os.geteuid()))
        yield judge.result("names", case["id"], lambda a=asked, w=wanted: _ask(session, "roots", a, w))


def _ask(session: Session, what: str, asked: list[Case], wanted: Any) -> str | None:
    (found,) = session.ask("names", **{what: asked})[what]
    return None if same(found or None, wanted or None) else f"{asked}: {found}, not {wanted}"


def numbers(session: Session, judge: Judge) -> Iterator[Result]:
    """Yield the results of `numbers.json`."""
    for case in NUMBERS:
        yield judge.result("numbers", case["id"], lambda case=case: _numbers(session, case))


def _numbers(session: Session, case: Case) -> str | None:
    found = session.ask("numbers", hex=content(case).hex())["numbers"]
    return None if same(found, case["numbers"]) else f"{found}, not {case['numbers']}"
