"""`zbus metrics`: what all members have counted, as OpenMetrics."""

from __future__ import annotations

import click

from ..observe.metrics import families
from ..observe.snapshot import look
from .nobody import nobody
from .options import bus_options, needs, notice
from .standard_streams import check_stdout

__all__ = ["metrics"]


@click.command()
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65_535),
    help="Serve them over HTTP on this port of 127.0.0.1, until Ctrl-C. 0 takes a free one.",
)
@bus_options
def metrics(port: int | None, bus: str, directory: str | None) -> int:
    """Print what all members have counted, as OpenMetrics.

    It joins nothing: it reads what each process publishes once a second in the bus directory, and no process
    notices. With --port, Prometheus and others can fetch it at /metrics; each request looks anew, and gets
    the format that it asks for. Only this machine can reach it.

    All metrics begin with `zbus_`. Each has the label `bus`, and most have `member` and `process`; those of
    topics and channels have `system` and `kind` too. `zbus_member_info` says who a member is.

    It needs the extra `metrics`, which is the package prometheus-client.

    Exit codes: 0 printed, 1 nobody was on the bus, or the port is in use, 130 for Ctrl-C.

    \b
    Examples:
      zbus metrics
      zbus metrics --port 9464
    """
    if port is None:
        check_stdout()
    needs("this command", "metrics", "prometheus-client")
    from .exposition import server, text  # it imports that package

    if port is not None:
        with server(port, lambda: families(look(bus, directory))) as serving:
            notice(f"serving http://127.0.0.1:{serving.server_port}/metrics")
            serving.serve_forever()
    found = look(bus, directory)
    click.echo(text(families(found)), nl=False)
    if not found.peers:
        notice(nobody(bus, found.peers.path))
        return 1
    return 0
