"""Runs `refuse.json`, and the list `refuse` of `wire.json`: what must be refused before anything is sent.

Each case goes through `send`, with a subscription beside it, and through `encode`, alone and as a batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..sequences import Case, read
from .driver import PeerError, Unsupported
from .results import Result
from .session import Judge, Session

__all__ = ["refusals"]

_SECONDS = 30
_STAMP = "0123abcd.1"


def refusals(session: Session, judge: Judge) -> Iterator[Result]:
    """Yield the results of what must be refused, and of a few neighbours that must be sent."""
    vectors = read("refuse.json")
    for case in read("wire.json")["refuse"] + vectors["topics_refused"] + vectors["topics_refused_lax"]:
        yield judge.result("refuse", case["id"], lambda case=case: _topic(session, case, True))
    for case in vectors["topics_sent"]:
        yield judge.result("refuse", case["id"], lambda case=case: _topic(session, case, False))
    for case in vectors["data_refused"]:
        yield judge.result("refuse", case["id"], lambda case=case: _data(session, case, True))
    for case in vectors["data_sent"]:
        yield judge.result("refuse", case["id"], lambda case=case: _data(session, case, False))
    for case in vectors["items_refused"]:
        yield judge.result("refuse", case["id"], lambda case=case: _items(session, case))
    for case in vectors["sizes"]:
        yield judge.result("refuse", case["id"], lambda case=case: _size(session, case))


def _topic(session: Session, case: Case, refused: bool) -> str | None:
    system, kind, path = (
        json.loads(case["lax"]) if "lax" in case else (case["system"], case["kind"], case["path"])
    )
    return _try(session, {**_text("system", system), **_text("kind", kind)}, _text("path", path), {}, refused)


def _text(field: str, text: str) -> dict[str, str]:
    """Return a text of a request; what UTF-8 cannot carry goes as bytes."""
    try:
        text.encode()
        return {field: text}
    except UnicodeEncodeError:
        return {f"{field}_hex": text.encode(errors="surrogatepass").hex()}


def _data(session: Session, case: Case, refused: bool) -> str | None:
    return _try(session, {"system": "s", "kind": "k"}, {"path": "/p"}, {"json": case["lax"]}, refused)


def _try(session: Session, topic: Case, path: Case, data: Case, refused: bool) -> str | None:
    """Send an event in every way there is; return what was wrong."""
    session.ask("open", bus="refuse")
    try:
        session.ask("subscribe", name="all", system="**")
        wrong = _judged(session, "send", {**topic, **path, **data}, refused)
        arrived = wrong or _arrived(session, 0 if refused else 1)
    finally:
        session.ask("close")
    if wrong or arrived:
        return wrong or arrived
    stamped = {**topic, "stamp": _STAMP}
    try:
        return _judged(session, "encode", {**stamped, **path, **data}, refused) or _judged(
            session, "encode", {**stamped, "items": [{**path, **data}]}, refused
        )
    except Unsupported:
        return None  # `wire.json` has shown that; here `send` is what counts


def _judged(session: Session, verb: str, fields: Case, refused: bool) -> str | None:
    try:
        session.ask(verb, **fields)
    except PeerError as error:
        if not refused:
            return f"{verb} refuses {fields}: {error}"
        return None if error.kind == "invalid" else f"{verb} of {fields} raised {error}, not Invalid"
    return f"{verb} does not refuse {fields}" if refused else None


def _arrived(session: Session, events: int) -> str | None:
    """Count what a subscription got before an event that ends it."""
    session.ask("send", system="the", kind="end", path="/")
    told = session.ask("receive", name="all", count=events + 1, timeout=_SECONDS)
    systems = [event["system"] for event in told["events"]]
    if len(systems) != events + 1 or systems[-1] != "the" or told["lost"] or told["malformed"]:
        return f"{events} events must arrive before the one of system 'the': {told}"
    return None


def _items(session: Session, case: Case) -> str | None:
    items = [{"path": path, "json": json.dumps(data)} for path, data in case["items"]]
    return _judged(session, "encode", {"system": "s", "kind": "k", "stamp": _STAMP, "items": items}, True)


def _size(session: Session, case: Case) -> str | None:
    session.ask("open", bus="sizes", max_event_bytes=case["max_event_bytes"])
    try:
        fields: dict[str, Any] = {"system": "s", "kind": "k", "path": "/" * case["path_bytes"]}
        wrong = _judged(session, "send", {**fields, "hex": "78" * case["data_bytes"]}, case["refused"])
    finally:
        session.ask("close")
    return wrong
