"""Random cases: the peer's answers beside those of the Python package.

Cases go in batches. The first difference of a batch is reduced and shown with its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

from . import generate
from .driver import PeerError, Unsupported
from .results import FAIL, Result
from .session import Judge, Session
from .values import parse, same, same_time
from .vectors import same_frame

__all__ = ["run"]

_BATCH = 50
_TRIES = 300
_FAILURES = 3  # to reduce a difference takes a while

Fields = dict[str, Any]


def run(peer: Session, python: Session, seed: int, full: bool) -> Iterator[Result]:
    """Yield a result for each batch."""
    judge = Judge(peer.peer.language, "differential")
    times = 10 if full else 1
    for check, (batches, compare) in _CHECKS.items():
        failures = 0
        for number in range(batches * times):
            case = f"seed {seed}:{number}"
            random = Random(f"{check} {seed} {number}")
            result = judge.result(check, case, lambda c=compare, r=random: c(peer, python, r))
            failures += result.verdict == FAIL
            yield result
            if failures == _FAILURES:
                break


def _lists(
    make: Callable[[Random, int], Fields], verb: str, lists: dict[str, str]
) -> Callable[..., str | None]:
    """Return a comparison of lists; `lists` names the list of answers to each list of the request."""

    def compare(peer: Session, python: Session, random: Random) -> str | None:
        request = make(random, _BATCH)
        theirs, ours = peer.ask(verb, **request), python.ask(verb, **request)
        for asked, answered in lists.items():
            for case, found, wanted in zip(request[asked], theirs[answered], ours[answered], strict=True):
                if found != wanted:
                    return f"{answered} of {case}: {found}, but Python says {wanted}"
        return None

    return compare


def _decoding(make: Callable[[Random, int], Fields]) -> Callable[..., str | None]:
    def compare(peer: Session, python: Session, random: Random) -> str | None:
        request = make(random, _BATCH)
        found = _difference(peer, python, request)
        if found is None:
            return None
        number, _ = found
        smaller = _reduced(peer, python, {**request, "frames": request["frames"][: number + 1]})
        _, what = _difference(peer, python, smaller) or found
        frames = [bytes.fromhex(frame["hex"]) for frame in smaller["frames"]]
        channel = {name: value for name, value in smaller.items() if name != "frames"}
        return f"channel {channel}, frames {frames}: {what}"

    return compare


def _difference(peer: Session, python: Session, request: Fields) -> tuple[int, str] | None:
    """Return the number of the first frame that the two take differently, and how."""
    theirs, ours = (side.ask("decode", **request)["frames"] for side in (peer, python))
    for number, (found, wanted) in enumerate(zip(theirs, ours, strict=True)):
        what = row_differs(found, wanted)
        if what:
            return number, what
    return None


def row_differs(found: Fields, wanted: Fields) -> str | None:
    """Compare what two peers make of a frame."""
    for name in ("malformed", "lost", "gaps"):
        if found[name] != wanted[name]:
            return f"{name} {found[name]}, but Python says {wanted[name]}"
    if len(found["events"]) != len(wanted["events"]):
        return f"{len(found['events'])} events, but Python says {len(wanted['events'])}"
    for theirs, ours in zip(found["events"], wanted["events"], strict=True):
        if not _same_event(theirs, ours):
            return f"{theirs}, but Python says {ours}"
    return None


def _same_event(theirs: Fields, ours: Fields) -> bool:
    texts = all(theirs.get(name) == ours.get(name) for name in ("system", "kind", "path"))
    numbers = (theirs.get("origin") or "", theirs.get("seq") or 0) == (ours["origin"], ours["seq"])
    if not texts or not numbers or not same_time(theirs.get("time"), ours["time"]):
        return False
    return theirs.get("hex") == ours.get("hex") and same(_value(theirs), _value(ours))


def _value(event: Fields) -> Any:
    text = event.get("json")
    return None if text is None else parse(text)


def _reduced(peer: Session, python: Session, request: Fields) -> Fields:
    """Leave out frames, and then bytes of the last one, as long as the two still differ."""
    tries = _TRIES

    def differs(frames: list[Fields]) -> bool:
        nonlocal tries
        tries -= 1
        with suppress(PeerError):
            return tries > 0 and _difference(peer, python, {**request, "frames": frames}) is not None
        return False

    frames = list(request["frames"])
    size = len(frames) // 2
    while size:
        for at in range(0, len(frames) - 1, size):
            fewer = [*frames[:at], *frames[at + size : -1], frames[-1]] if at + size < len(frames) else frames
            if len(fewer) < len(frames) and differs(fewer):
                frames = fewer
                break
        else:
            size //= 2
    return {**request, "frames": _shorter_last(frames, differs)}


def _shorter_last(frames: list[Fields], differs: Callable[[list[Fields]], bool]) -> list[Fields]:
    size = 32
    while size:
        last = bytes.fromhex(frames[-1]["hex"])
        for at in range(0, len(last), size):
            shorter = [*frames[:-1], {"hex": (last[:at] + last[at + size :]).hex()}]
            if differs(shorter):
                frames = shorter
                break
        else:
            size //= 2
    return frames


def _encodings(peer: Session, python: Session, random: Random) -> str | None:
    for _ in range(_BATCH):
        request = generate.encoding(random)
        try:
            theirs, ours = (_encoded(side, request) for side in (peer, python))
        except Unsupported:
            continue  # batches, for example; the vectors have shown that
        if isinstance(theirs, str) or isinstance(ours, str):
            wrong = None if theirs == ours else f"{theirs!r}"
        else:
            wrong = same_frame(_without_null(theirs), ours)
        if wrong:
            return f"{request}: {wrong}; Python says {ours!r}"
    return None


def _without_null(frame: bytes) -> bytes:
    """Return a frame with no data instead of `null`: to every receiver they are the same."""
    return frame[:-4] if frame.endswith(b"\0null") else frame


def _encoded(side: Session, request: Fields) -> bytes | str:
    try:
        return bytes.fromhex(side.ask("encode", **request)["hex"])
    except PeerError as error:
        return error.kind


_CHECKS: dict[str, tuple[int, Callable[[Session, Session, Random], str | None]]] = {
    "patterns": (
        20,
        _lists(
            generate.patterns,
            "patterns",
            {"cases": "matches", "prefixes": "prefixes", "invalid": "refused"},
        ),
    ),
    "names": (10, _lists(generate.names, "names", {name: name for name in ("files", "sentinels", "buses")})),
    "frames": (120, _decoding(generate.frames)),
    "loss": (60, _decoding(generate.losses)),
    "encode": (10, _encodings),
}
"""How many batches in the short form, and how two peers are compared."""
