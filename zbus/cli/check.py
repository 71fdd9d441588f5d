"""`zbus check`: compare a bus with thresholds, for monitoring."""

from __future__ import annotations

from collections.abc import Iterator

import click
import orjson

import zbus

from ..observe.checkup import Figures, figures
from .options import bus_options
from .standard_streams import check_stdout

__all__ = ["check"]

_BEYOND, _UNKNOWN = 2, 3


@click.command()
@click.option(
    "--max-lost", metavar="N", type=click.IntRange(0), help="At most N events lost so far, by all members."
)
@click.option(
    "--max-lag",
    metavar="S",
    type=click.FloatRange(0),
    help="No event has waited unread for longer than S seconds.",
)
@click.option("--min-members", metavar="N", type=click.IntRange(0), help="At least N members are on the bus.")
@click.option("--min-subscribers", metavar="N", type=click.IntRange(0), help="At least N subscribers are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
def check(
    max_lost: int | None,
    max_lag: float | None,
    min_members: int | None,
    min_subscribers: int | None,
    as_json: bool,
    bus: str,
    directory: str | None,
) -> int:
    """Compare a bus with thresholds, for monitoring.

    It prints one line, in the form that Nagios and its kin read.

    It looks from outside, without joining the bus. Without thresholds it only tells the figures, which
    members publish once a second.

    The JSON object has `status` (ok, beyond or unknown), `problems` (texts), `members`, `subscribers`,
    `lost` and `lag`; the last four are null if the bus cannot be looked at.

    Exit codes: 0 all thresholds hold, 2 one does not, or the command line is wrong, 3 the bus cannot be
    looked at.

    \b
    Examples:
      zbus check --min-members 3 --max-lost 0
      zbus check --bus shop --max-lag 5
    """
    check_stdout()
    try:
        now = figures(zbus.peers(bus, dir=directory))
    except (zbus.PermissionDenied, zbus.Unavailable) as error:
        unknown = {"status": "unknown", "problems": [error.message], **dict.fromkeys(Figures.__annotations__)}
        click.echo(orjson.dumps(unknown).decode() if as_json else f"UNKNOWN: {error.message}")
        return _UNKNOWN
    limits = (max_lost, max_lag, min_members, min_subscribers)
    problems = [*_problems(now, *limits)]
    if as_json:
        status = "beyond" if problems else "ok"
        click.echo(orjson.dumps({"status": status, "problems": problems, **now._asdict()}).decode())
    else:
        said = "; ".join(problems) or (
            f"{now.members} members, {now.subscribers} subscribers, {now.lost:,} events lost,"
            f" the oldest unread has waited {now.lag:.1f} s"
        )
        figures_text = (
            f"members={now.members} subscribers={now.subscribers} lost={now.lost}c lag={now.lag:.3f}s"
        )
        click.echo(f"{'CRITICAL' if problems else 'OK'}: {said} | {figures_text}")
    return _BEYOND if problems else 0


def _problems(
    now: Figures,
    max_lost: int | None,
    max_lag: float | None,
    min_members: int | None,
    min_subscribers: int | None,
) -> Iterator[str]:
    if max_lost is not None and now.lost > max_lost:
        yield f"{now.lost:,} events lost, at most {max_lost:,} allowed"
    if max_lag is not None and now.lag > max_lag:
        yield f"an event has waited unread for {now.lag:.1f} s, at most {max_lag:g} s allowed"
    if min_members is not None and now.members < min_members:
        yield f"{now.members} members, at least {min_members} expected"
    if min_subscribers is not None and now.subscribers < min_subscribers:
        yield f"{now.subscribers} subscribers, at least {min_subscribers} expected"
