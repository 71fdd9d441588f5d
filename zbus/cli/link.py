"""`zbus link`: carry chosen systems to another machine and back, by NATS."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
from typing import TYPE_CHECKING, Any, Literal

import click
import orjson

import zbus

from .options import bus_options, notice
from .standard_streams import check_stdout

if TYPE_CHECKING:
    from ..links.nats import Link

__all__ = ["link"]

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SPILL = re.compile(r"spill=(.+):([1-9][0-9]*)([KMG]?)B?")


class _WhenDown(click.ParamType):  # type: ignore[type-arg]
    """`block`, `drop`, or `spill=PATH:SIZE`."""

    name = "when-down"

    def convert(self, value: Any, *_: Any) -> Any:
        if value in ("block", "drop") or isinstance(value, tuple):
            return value
        if (match := _SPILL.fullmatch(value)) is None:
            self.fail(f"{value!r} is none of block, drop and spill=PATH:SIZE, such as spill=link.spill:1G")
        return match[1], int(match[2]) * _UNITS[match[3]]


@click.command()
@click.argument("servers", metavar="URL...", nargs=-1, required=True)
@click.option(
    "--out", metavar="PATTERN", multiple=True, help="Carry these systems out; several times if need be."
)
@click.option("--in", "into", metavar="PATTERN", multiple=True, help="Carry these systems in; likewise.")
@click.option(
    "--policy", metavar="FILE", help="What may go out (events.subscribe) and come in (events.send)."
)
@click.option("--core", is_flag=True, help="Without JetStream: at most once.")
@click.option(
    "--name",
    metavar="NAME",
    help="Name of this link, which continues where it was.  [default: id of the bus]",
)
@click.option(
    "--stream", metavar="NAME", help="The stream to bring events in from.  [default: the one that has them]"
)
@click.option(
    "--when-down",
    metavar="WAY",
    type=_WhenDown(),
    default="block",
    show_default=True,
    help="While NATS takes nothing: block publishers, drop events, or spill=PATH:SIZE.",
)
@click.option("--creds", metavar="FILE", envvar="NATS_CREDS", help="A NATS credentials file.")
@click.option("--nkey", metavar="FILE", envvar="NATS_NKEY", help="A file with the seed of an NKey.")
@click.option("--tls-ca", metavar="FILE", help="Certificates to check the server by.")
@click.option("--tls-cert", metavar="FILE", help="The certificate of this link.")
@click.option("--tls-key", metavar="FILE", help="Its key, without a passphrase.")
@click.option("--json", "as_json", is_flag=True, help="At the end, print the numbers as one JSON object.")
@bus_options
def link(servers: tuple[str, ...], bus: str, directory: str | None, as_json: bool, **options: Any) -> int:
    """Carry systems to other machines by NATS, until Ctrl-C.

    Events keep their publisher and number, so a subscriber on the other side knows exactly what is missing.
    With JetStream, an event counts as carried when a stream has stored it, and comes in again after a failure
    until it was sent on. The subject is zbus.BUS.SYSTEM.KIND, with the dots of the kind written as %2E.

    A name and a password, or a token, are taken from NATS_USER, NATS_PASSWORD and NATS_TOKEN, because
    everyone on the machine can read a command line.

    The JSON object, printed when the link ends, has `server`, `sent`, `received`, `refused`, `dropped`,
    `repeated`, `waiting`, `behind` (messages in the stream), `reconnects`, `lag` in seconds, and `problem`.

    It needs the extra `nats`, which is the packages nats-py and nkeys.

    Exit codes: 0 ended by Ctrl-C, 143 by SIGTERM, 1 the server does not let this link in, a file cannot be
    used, or another link of the same name has taken over.

    \b
    Examples:
      zbus link nats://hub:4222 --out 'orders.**'
      zbus link nats://hub:4222 --in 'orders.**' --policy link.toml
    """
    if as_json:
        check_stdout()
    if importlib.util.find_spec("nats") is None:
        raise click.ClickException("this command needs nats-py, the extra `nats`: pip install nats-py")
    if any("@" in server for server in servers):
        notice(
            "everyone on this machine can read the password in the address: use NATS_USER and NATS_PASSWORD"
        )
    policy = zbus.Policy.from_toml(options["policy"]) if options["policy"] else None
    return asyncio.run(_run(_link(servers, bus, directory, policy, options), as_json))


def _link(
    servers: tuple[str, ...],
    bus: str,
    directory: str | None,
    policy: zbus.Policy | None,
    options: dict[str, Any],
) -> Any:
    from ..links.nats import Credentials, Link

    way = options["when_down"]
    spill = way if isinstance(way, tuple) else None
    when_down: Literal["block", "drop", "spill"] = "spill" if spill else way
    credentials = Credentials(
        user=os.environ.get("NATS_USER", ""),
        password=os.environ.get("NATS_PASSWORD", ""),
        token=os.environ.get("NATS_TOKEN", ""),
        nkey=options["nkey"] or "",
        creds=options["creds"] or "",
        ca=options["tls_ca"] or "",
        cert=options["tls_cert"] or "",
        key=options["tls_key"] or "",
    )
    return lambda: Link(
        servers,
        out=options["out"],
        into=options["into"],
        bus=bus,
        dir=directory,
        policy=policy,
        core=options["core"],
        name=options["name"],
        stream=options["stream"],
        when_down=when_down,
        spill=spill,
        credentials=credentials,
        notice=notice,
    )


async def _run(make: Any, as_json: bool) -> int:
    """Run a link until a signal; return the exit code."""
    received: list[int] = []
    opened: Link = make()

    def on_signal(number: int) -> None:
        received.append(number)
        opened.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    try:
        async with opened:
            await opened.run()
    finally:
        if as_json:
            click.echo(orjson.dumps(opened.numbers.public()))
        else:
            notice(_summary(opened.numbers.public()))
    return 0 if not received or received[0] == signal.SIGINT else 128 + received[0]


def _summary(numbers: dict[str, Any]) -> str:
    shown = ("sent", "received", "refused", "dropped", "repeated", "waiting")
    return "the link has ended: " + ", ".join(f"{numbers[name]:,} {name}" for name in shown)
