"""Runs the files of `tests/conformance/vectors` through a driver, each case for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..json_cases import JSON, frame_of
from ..sequences import CASES as LOSS
from ..sequences import Case, read
from .files import names, numbers
from .refusals import refusals
from .results import Result
from .session import Judge, Session
from .values import data_differs, json_text, parse, same, same_time

__all__ = ["CHECKS", "run", "same_frame"]

_STAMP_FIELDS = ("born", "settled", "first")
_LOSS_DEFAULTS = read("loss.json")["defaults"]


def run(session: Session) -> Iterator[Result]:
    """Yield the result of each case."""
    judge = Judge(session.peer.language, "vectors")
    for check in CHECKS:
        yield from CHECKS[check](session, judge)


def _patterns(session: Session, judge: Judge) -> Iterator[Result]:
    vectors = read("patterns.json")
    for name in ("upstream", "zbus"):
        for number, case in enumerate(vectors[name], 1):
            yield judge.result("patterns", f"{name} {number}", lambda case=case: _match(session, case))
    for number, pattern in enumerate(vectors["invalid"], 1):
        yield judge.result(
            "patterns", f"invalid {number}", lambda pattern=pattern: _refused(session, pattern)
        )
    for case in vectors["prefixes"]:
        yield judge.result("patterns", case["id"], lambda case=case: _prefixes(session, case))


def _match(session: Session, case: Case) -> str | None:
    (found,) = session.ask("patterns", cases=[{"pattern": case["pattern"], "name": case["name"]}])["matches"]
    return None if found is case["match"] else f"{case['pattern']!r} and {case['name']!r}: {found}"


def _refused(session: Session, pattern: str) -> str | None:
    (found,) = session.ask("patterns", invalid=[{"pattern": pattern}])["refused"]
    return None if found is True else f"{pattern!r} is not refused"


def _prefixes(session: Session, case: Case) -> str | None:
    asked = {"system": case["system"], "kind": case["kind"]}
    (found,) = session.ask("patterns", prefixes=[asked])["prefixes"]
    expected = sorted(prefix.encode().hex() for prefix in case["prefixes"])
    return None if found is not None and sorted(found) == expected else f"{asked}: {found}, not {expected}"


def _frame(session: Session, frame: bytes) -> Case:
    """Pass a frame to a channel that selects everything; return what comes of it."""
    (row,) = session.ask("decode", system="**", frames=[{"hex": frame.hex()}])["frames"]
    return dict(row)


def _malformed(session: Session, frame: bytes) -> str | None:
    row = _frame(session, frame)
    if row["events"] or row["gaps"]:
        return f"delivers or counts a malformed frame: {row}"
    return None if row["malformed"] == 1 else f"malformed {row['malformed']}, not 1"


def _skipped(session: Session, frame: bytes) -> str | None:
    row = _frame(session, frame)
    return f"does not skip it: {row}" if row["events"] or row["malformed"] or row["gaps"] else None


def _wire(session: Session, judge: Judge) -> Iterator[Result]:
    vectors = read("wire.json")
    actions: dict[str, Callable[[Session, Case], str | None]] = {
        "accept": _accepted,
        "control": lambda session, case: _skipped(session, bytes.fromhex(case["frame_hex"])),
        "reject": lambda session, case: _malformed(session, bytes.fromhex(case["frame_hex"])),
        "encode": _encoded,
    }
    for name, action in actions.items():
        for case in vectors[name]:
            yield judge.result("wire", case["id"], lambda case=case, action=action: action(session, case))


def _accepted(session: Session, case: Case) -> str | None:
    row = _frame(session, bytes.fromhex(case["frame_hex"]))
    if row["malformed"]:
        return "takes it for malformed"
    if len(row["events"]) != len(case["events"]):
        return f"{len(row['events'])} events, not {len(case['events'])}"
    for event, expected in zip(row["events"], case["events"], strict=True):
        wrong = _event_differs(event, case, expected) or data_differs(event, expected)
        if wrong:
            return wrong
    return _stamp_differs(row, case) if row["events"] else None


def _event_differs(event: Case, case: Case, expected: Case) -> str | None:
    wanted = {
        "system": case["system"],
        "kind": case["kind"],
        "path": expected["path"],
        "origin": case["origin"],
        "seq": expected["seq"],
        "time": case.get("time"),
    }
    found = {name: event.get(name) for name in wanted}
    found["origin"] = found["origin"] or ""
    found["seq"] = found["seq"] or 0
    if same_time(found["time"], wanted["time"]):
        found["time"] = wanted["time"]
    return None if found == wanted else f"{found}, not {wanted}"


def _stamp_differs(row: Case, case: Case) -> str | None:
    for name in _STAMP_FIELDS:
        if name in row and _told(row[name]) != case.get(name):
            return f"{name} {row[name]!r}, not {case.get(name)!r}"
    return None


def _told(value: Any) -> Any:
    return None if value == -1 else value


def _encoded(session: Session, case: Case) -> str | None:
    """The frame must be these bytes, up to the form of JSON and empty fields at the end of the stamp."""
    fields: Case = {"system": case["system"], "kind": case["kind"], "stamp": _stamp(case)}
    if "items" in case:
        fields["items"] = [_item(path, data) for path, data in case["items"]]
    else:
        fields |= {"path": case["path"], **_data(case)}
    return same_frame(bytes.fromhex(session.ask("encode", **fields)["hex"]), bytes.fromhex(case["frame_hex"]))


def _stamp(case: Case) -> str:
    numbers = (case.get(name, "") for name in ("seq", "born", "settled", "first", "time"))
    return ".".join([case["origin"], *map(str, numbers)]).rstrip(".")


def _item(path: str, data: Any) -> Case:
    return {"path": path} if data is None else {"path": path, "json": json_text(data)}


def _data(case: Case) -> Case:
    if "data_hex" in case:
        return {"hex": case["data_hex"]}
    return {} if case["data"] is None else {"json": json_text(case["data"])}


def same_frame(found: bytes, wanted: bytes) -> str | None:
    """Compare frames up to the form of JSON, and empty fields at the end of the stamp."""
    ours, theirs = found.split(b"\0", 4), wanted.split(b"\0", 4)
    if len(ours) == 5:
        ours[3], theirs[3] = ours[3].rstrip(b"."), theirs[3].rstrip(b".")
    if ours == theirs:
        return None
    if ours[:4] == theirs[:4] and theirs[4][:1] not in (b"", b"\0") and _same_rows(ours[4], theirs[4]):
        return None
    return f"{found!r}, not {wanted!r}"


def _same_rows(found: bytes, wanted: bytes) -> bool:
    """Compare JSON; in a batch, `[path]` is `[path, null]`."""
    ours, theirs = parse(found), parse(wanted)
    if isinstance(ours, list) and isinstance(theirs, list):
        ours, theirs = _rows(ours), _rows(theirs)
    return same(ours, theirs)


def _rows(batch: list[Any]) -> list[Any]:
    return [row[:1] if isinstance(row, list) and len(row) == 2 and row[1] is None else row for row in batch]


def _stamps(session: Session, judge: Judge) -> Iterator[Result]:
    vectors = read("stamps.json")
    for case in vectors["accept"]:
        yield judge.result("stamps", case["id"], lambda case=case: _stamp_told(session, case))
    for case in vectors["reject"]:
        frame = _stamped(case)
        yield judge.result("stamps", case["id"], lambda frame=frame: _malformed(session, frame))


def _stamped(case: Case) -> bytes:
    stamp = bytes.fromhex(case["hex"]) if "hex" in case else str(case["stamp"]).encode()
    return b"s\0k\0/p\0" + stamp + b"\0"


def _stamp_told(session: Session, case: Case) -> str | None:
    row = _frame(session, _stamped(case))
    (event,) = row["events"]
    found, wanted = (
        (event.get("origin") or "", event.get("seq") or 0),
        (case.get("origin", ""), case.get("seq", 0)),
    )
    if found != wanted or not same_time(event.get("time"), case.get("time")):
        return f"{found} at {event.get('time')}, not {wanted} at {case.get('time')}"
    return _stamp_differs(row, case)


def _json(session: Session, judge: Judge) -> Iterator[Result]:
    for case in JSON["accept"]:
        yield judge.result("json", case["id"], lambda case=case: _json_taken(session, case))
    for case in JSON["reject"]:
        yield judge.result("json", case["id"], lambda case=case: _malformed(session, frame_of(case)))


def _json_taken(session: Session, case: Case) -> str | None:
    row = _frame(session, frame_of(case))
    if row["malformed"] or len(row["events"]) != 1:
        return f"refuses it: malformed {row['malformed']}, {len(row['events'])} events"
    return data_differs(row["events"][0], {"data": case["value"]}) if "value" in case else None


def _loss(session: Session, judge: Judge) -> Iterator[Result]:
    for case in LOSS:
        yield judge.result("loss", case["id"], lambda case=case: _sequence(session, case))


def _sequence(session: Session, case: Case) -> str | None:
    case = {**_LOSS_DEFAULTS, **case}
    steps = [{**_LOSS_DEFAULTS, **step} for step in case["steps"]]
    fields = {"announced": case["announced"], "joined": case["joined"]}
    if case["kind_pattern"] is not None:
        fields["kind"] = case["kind_pattern"]
    if "limit" in case:
        fields["limit"] = case["limit"]
    frames = [{"hex": _loss_frame(step).hex()} for step in steps]
    rows = session.ask("decode", system=case["pattern"], frames=frames, **fields)["frames"]
    if len(rows) != len(steps):
        return f"{len(rows)} answers to {len(steps)} frames"
    for number, (row, step) in enumerate(zip(rows, steps, strict=True), 1):
        found = {name: row[name] for name in ("gaps", "lost", "malformed")}
        found["events"] = len(row["events"])
        wanted = {name: step[name] for name in found}
        if found != wanted:
            return f"frame {number}: {found}, not {wanted} ({case['why']})"
    return None


def _loss_frame(step: Case) -> bytes:
    if "frame_hex" in step:
        return bytes.fromhex(step["frame_hex"])
    return "\0".join(step[field] for field in ("system", "kind", "path", "stamp", "data")).encode()


CHECKS: dict[str, Callable[[Session, Judge], Iterable[Result]]] = {
    "patterns": _patterns,
    "wire": _wire,
    "stamps": _stamps,
    "json": _json,
    "loss": _loss,
    "names": names,
    "numbers": numbers,
    "refuse": refusals,
}
"""The parts of the vectors, by the file that holds them."""
