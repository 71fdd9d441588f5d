"""`zbus why`: who receives an event, and why others do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import orjson

import zbus

from ..observe.senders import RUNNING, STOPPED, Publisher
from ..observe.verdicts import NO_MATCH, UNKNOWN, Listener, Report, explain
from ..roster.process_info import visible
from .options import bus_options, notice
from .standard_streams import check_stdout
from .suggestions import member_names

__all__ = ["why"]


@click.command()
@click.argument("system")
@click.argument("kind")
@click.option(
    "--from",
    "sender",
    metavar="MEMBER",
    shell_complete=member_names,
    help="Look only at this sender: an id, process id or name.",
)
@click.option(
    "--to",
    "receiver",
    metavar="MEMBER",
    shell_complete=member_names,
    help="Look only at the subscribers of this member.",
)
@click.option(
    "--policy",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Also say whether this policy, a TOML file that your programs use, allows it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
def why(
    system: str,
    kind: str,
    sender: str | None,
    receiver: str | None,
    policy: str | None,
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Say who receives an event, and why others do not.

    It looks from outside and sends nothing. A subscriber receives the event, is losing events because its
    queue is full, or does not get it: no pattern matches (with the nearest one that would), it is stopped,
    dead, does not answer, or is on another bus. What has been sent so far is told, too, and whether who sent
    it is stopped or dead.

    The JSON object has `system`, `kind`, `receives`, `directory`, `subscribers`, `publishers`, `similar`
    (topics that are sent), `elsewhere` (subscribers of other buses), `closed` (buses that you may not look
    at) and `denied` (by --policy). A subscriber has `process`, `pid`, `user`, `id`, `member`, `overflow`,
    `system` and `kind` (its patterns), `verdict`, `detail`, `instead` (patterns that would select it),
    `lost`, `quiet` (seconds without a loss) and `unread`. The verdict is receives, losing, waiting, stopped,
    dead, not-settled, no-match or unknown. A publisher has `process`, `pid`, `user`, `id`, `events` and
    `state` (running, stopped or dead). One elsewhere has `process`, `pid`, `user`, `bus` and `root`, a closed
    bus `bus`, `root` and `user`.

    Exit codes: 0 somebody receives it, 1 nobody does.

    \b
    Examples:
      zbus why orders.eu order.created
      zbus why orders.eu order.created --from shop --to mailer
    """
    check_stdout()
    report = explain(system, kind, bus=bus, dir=directory, sender=sender, receiver=receiver)
    denials = [*_denials(policy, system, report)]
    receives = (
        any(row.receives for row in report.listeners)
        and not report.halted
        and not any(what == "send" for what, _ in denials)
    )
    if as_json:
        click.echo(orjson.dumps(_as_dict(report, system, kind, receives, denials)).decode())
    else:
        for line in (*_lines(report, system, kind, bus), *(text for _, text in denials)):
            click.echo(visible(line))
        if not receives:
            notice(f"nobody receives {system} {kind} on bus {bus}")
    return 0 if receives else 1


def _as_dict(
    report: Report, system: str, kind: str, receives: bool, denials: list[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "system": system,
        "kind": kind,
        "receives": receives,
        "directory": str(report.path),
        "subscribers": [row._asdict() for row in report.listeners],
        "publishers": [row._asdict() for row in report.publishers],
        "similar": report.similar,
        "elsewhere": [row._asdict() for row in report.elsewhere],
        "closed": [row._asdict() for row in report.closed],
        "denied": [text for _, text in denials],
    }


def _lines(report: Report, system: str, kind: str, bus: str) -> Iterator[str]:
    for row in report.listeners:
        yield f"{_who(row.process, row.pid, row.user)}: {_said(row)}"
    if not report.listeners:
        yield f"nobody subscribes on bus {bus} in {report.path}"
    for other in report.elsewhere:
        yield (
            f"{_who(other.process, other.pid, other.user)}: would receive it, but is on another bus: zbus why"
            f" --bus {other.bus} --dir {other.root} {system} {kind}"
        )
    for closed in report.closed:
        yield (
            f"bus {closed.bus} in {closed.root} is of {closed.user}, and you may not look there: sudo -u"
            f" {closed.user} zbus why --bus {closed.bus} --dir {closed.root} {system} {kind}"
        )
    yield from map(_sent, report.publishers)
    near = ", ".join(" ".join(pair) for pair in report.similar)
    if not report.publishers:
        yield "nobody on the bus has sent it" + (f"; what is sent: {near}" if near else "")
    elif near:
        yield f"what is sent instead: {near}"


def _sent(row: Publisher) -> str:
    who = _who(row.process, row.pid, row.user)
    said = f"sent by {who}: {row.events:,} so far" if row.events else f"not sent by {who} so far"
    if row.state == RUNNING:
        return said
    go_on = f": kill -CONT {row.pid}" if row.state == STOPPED else ""
    return f"{said}, and its process is {row.state}{go_on}"


def _who(process: str, pid: int, user: str) -> str:
    return f"{process} ({pid or '?'}, {user})"


def _said(row: Listener) -> str:
    pattern = f"{row.system} {row.kind}".removesuffix(" *")
    if row.receives:
        return f"receives it by {pattern!r} ({row.overflow})" + (f", but {row.detail}" if row.detail else "")
    if row.verdict == UNKNOWN:
        return f"may receive it or not: {row.detail}"
    if row.verdict != NO_MATCH:
        return f"does not receive it, though {pattern!r} selects it: {row.detail}"
    if row.instead is None:
        return f"no pattern matches; the nearest is {pattern!r}"
    instead = " ".join(row.instead).removesuffix(" *")
    return f"no pattern matches; the nearest is {pattern!r} ({row.detail}): {instead!r} would"


def _denials(path: str | None, system: str, report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a policy denies: `send` or `subscribe`, and a line for people."""
    if path is None:
        return
    policy = zbus.Policy.from_toml(path)
    if not policy(zbus.policy.SEND, system):
        yield "send", f"policy {path} denies to send to {system}"
    for pattern in sorted({row.system for row in report.listeners if row.system}):
        if not policy(zbus.policy.SUBSCRIBE, pattern):
            yield "subscribe", f"policy {path} denies to subscribe to {pattern}"
