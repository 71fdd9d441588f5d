"""The checker of a soak, a process of its own: `python -m tests.faults.checker DIRECTORY`.

It reads what the processes of one act noted and what was done to them, proves what became of every event,
and prints the ledger as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from .ledger import SECOND, TORN, Hearing, Ledger, Receipt, Sending, Span
from .proof import prove, with_room
from .records import FACTS, GAVE_UP, ORIGIN, RECEIPTS, SENDS, UNKNOWN, Records
from .soak_events import TOOL_TOPIC, TOPIC_NUMBER, identify

__all__ = ["Fate", "read_act"]

TOOL_LINGER = SECOND
"""That of `zbus send`, which takes the bus's default."""


@dataclass
class Fate:
    """What was done to one process; SIGSTOP and SIGKILL are noted before they are sent, SIGCONT after.

    Attributes:
        role: `publish`, `listen`, `send` or `sub`, the last two being tools.
        directory: where its notes are.
        begun, ended: when it was started, and seen to have ended; 0 if it has not.
        opened: of `sub`, when it was seen to have said that it had subscribed; 0 if it has not.
        count: of `sub`, how many events it was to print.
        lost: of `sub`, whether it said that it lost events.
        gave_up: of `send`, whether it said that it gave up joining a subscriber.
    """

    name: str
    role: str
    pid: int
    directory: str
    begun: int
    killed: int = 0
    ended: int = 0
    stops: list[Span] = field(default_factory=list)
    opened: int = 0
    count: int = 0
    lost: bool = False
    gave_up: bool = False


def read_act(fates: list[Fate], since: int) -> tuple[list[Sending], list[Hearing]]:
    """Return what was sent and heard, as noted by all the processes that took part."""
    sendings, hearings = [], []
    for fate in fates:
        if fate.role == "publish":
            sendings.append(_publisher(fate, since))
        elif fate.role == "send":
            sendings.append(_sending_tool(fate, fates, since))
        elif fate.role == "sub":
            hearings.append(_listening_tool(fate))
        else:
            paths = sorted(Path(fate.directory).glob(f"{fate.name}-*.json"))
            hearings += [hearing for path in paths if (hearing := _subscription(fate, path))]
    return sendings, hearings


def _publisher(fate: Fate, since: int) -> Sending:
    topics, begins, returns, frames = [], [], [], []
    path = Path(fate.directory, fate.name)
    for frame, (begun, returned, topic, count) in enumerate(Records.read(path.with_suffix(".sends"), SENDS)):
        topics += [topic] * count
        begins += [begun] * count
        returns += [returned] * count
        frames += [frame] * count
    gave_up = [(moment, pid) for moment, pid in Records.read(path.with_suffix(".gave_up"), GAVE_UP)]
    [[origin]] = Records.read(path.with_suffix(".origin"), ORIGIN) or [[0]]
    holds = bool(topics and json.loads(path.with_suffix(".json").read_bytes())["coalesce"])
    return Sending(
        int(fate.name),
        topics,
        begins,
        returns,
        frames,
        fate.killed,
        inf,
        fate.stops,
        gave_up,
        since,
        origin,
        fate.ended,
        holds,
    )


def _sending_tool(fate: Fate, fates: list[Fate], since: int) -> Sending:
    # It does not say when and whom it gave up: one of those that were stopped meanwhile.
    gave_up = [
        (max(start, fate.begun), other.pid)
        for other in fates
        for start, end in other.stops
        if fate.gave_up and start < fate.ended and end > fate.begun
    ]
    return Sending(
        int(fate.name),
        [TOOL_TOPIC],
        [fate.begun],
        [0 if fate.killed else fate.ended],
        [0],
        fate.killed,
        TOOL_LINGER,
        fate.stops,
        gave_up,
        since,
        ended=fate.ended,
    )


def _listening_tool(fate: Fate) -> Hearing:
    receipts = []
    for line in Path(fate.directory, f"{fate.name}.sub.out").read_text().splitlines():
        evt: dict[str, Any] = json.loads(line)
        publisher, event, intact = identify(evt["path"], evt["data"])
        topic = TOPIC_NUMBER.get((evt["system"], evt["kind"]), 255)
        what = 0 if intact else TORN
        receipts.append(Receipt(int(evt["origin"], 16), event, evt["seq"], publisher, topic, what))
    return Hearing(
        f"zbus sub {fate.name}",
        fate.pid,
        "**",
        "*",
        "drop",
        1 << 16,
        fate.begun,
        fate.opened,
        fate.killed or fate.ended,
        killed=bool(fate.killed),
        count=fate.count,
        stops=fate.stops,
        receipts=receipts,
    )


def _subscription(fate: Fate, path: Path) -> Hearing | None:
    facts = Records.read(path.with_suffix(".facts"), FACTS)
    if not facts:
        return None  # killed before it could ask
    asked, opened, closing, calm, lost, malformed = facts[0]
    killed = bool(fate.killed and not closing)
    return Hearing(
        path.stem,
        fate.pid,
        **json.loads(path.read_bytes()),
        asked=asked,
        opened=opened,
        end=closing or fate.killed or fate.ended,
        calm=calm,
        killed=killed,
        lost=None if lost == UNKNOWN else lost,
        malformed=malformed,
        stops=fate.stops,
        receipts=[Receipt(*receipt) for receipt in Records.read(path.with_suffix(".receipts"), RECEIPTS)],
    )


def main(directory: str) -> None:
    """Prove the act in `directory` and print its ledger."""
    act = json.loads(Path(directory, "act.json").read_bytes())
    fates = [Fate(**fate) for fate in act["fates"]]
    sendings, hearings = read_act(fates, act["since"])
    ledger = Ledger()
    prove(sendings, hearings, ledger)
    given_up = {pid for sending in sendings for _, pid in sending.gave_up}
    heard = {hearing.pid: hearing for hearing in hearings}
    for fate in fates:
        # It does not say which. So it had no reason to lose any only if nobody had one to drop any.
        if not fate.lost or fate.pid in given_up:
            continue
        if len(with_room(sendings, heard[fate.pid], hearings)) == len(sendings):
            ledger.violation(f"lost although there was room: some events to zbus sub {fate.name}")
    print(json.dumps({"sums": ledger.sums, "texts": ledger.texts}))


if __name__ == "__main__":
    main(sys.argv[1])
