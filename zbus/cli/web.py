"""`zbus web`: a page that shows the bus, live, in a browser on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .options import bus_options, needs, notice
from .signals import ignore_signals, on_signals

if TYPE_CHECKING:
    from ..web.feed import Feed

__all__ = ["web"]

_TOKEN_BYTES = 16


@click.command()
@click.argument("pattern", default="*")
@click.argument("kind", required=False)
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65_535),
    default=8380,
    show_default=True,
    help="The port of 127.0.0.1 to serve on. 0 takes a free one.",
)
@click.option("--no-token", is_flag=True, help="Serve everybody on this machine, without a token.")
@bus_options
def web(pattern: str, kind: str | None, port: int, no_token: bool, bus: str, directory: str | None) -> int:
    """Show the bus on a page in a browser, live.

    It prints the address of the page. Open it in a browser on this machine; elsewhere, forward the port:
    ssh -L 8380:127.0.0.1:8380 HOST. The address has a token that is new each time, so that other users of
    the machine cannot read along; --no-token leaves it out.

    The page shows the topics that PATTERN and KIND select as a tree, with their rates and latest values, the
    members, and who sends what to whom. It can be searched and paused, and what it shows be exported as JSON
    lines or CSV. The keyboard works: ? on the page lists the keys.

    It subscribes with `drop`: it never holds a publisher back, and the page shows what it missed. It never
    sends. It keeps the latest 8 KiB of a topic's value, and 5,000 topics.

    It needs the extra `web`, which is the packages starlette and uvicorn.

    Exit codes: 130 for Ctrl-C, 143 for SIGTERM, 1 the port is in use or the bus cannot be joined.

    \b
    Examples:
      zbus web
      zbus web 'orders.**' --port 0
    """
    needs("this command", "web", "starlette", "uvicorn")
    from ..web.server import Server, bound

    ended: list[int] = []
    token = "" if no_token else secrets.token_urlsafe(_TOKEN_BYTES)
    with bound(port) as listening, _feed(pattern, kind, bus, directory) as feed:
        server = Server(feed, token)

        def end(number: int) -> None:
            ended.append(number)
            server.stop()

        with on_signals(end):
            notice(f"serving {_address(listening.getsockname()[1], token)}")
            server.serve_on(listening)
    return 128 + ended[0] if ended else 0


@contextmanager
def _feed(pattern: str, kind: str | None, bus: str, directory: str | None) -> Iterator[Feed]:
    """Tap a bus; a second signal does not interrupt the closing."""
    from ..recording.tap import TapBus
    from ..web.feed import Feed

    opened = TapBus(bus, dir=directory)
    try:
        feed = Feed(opened.tap(pattern, kind, "drop"), bus, directory)
        try:
            yield feed
        finally:
            ignore_signals()
            feed.close()
    finally:
        ignore_signals()
        opened.close()


def _address(port: int, token: str) -> str:
    return f"http://127.0.0.1:{port}/" + (f"?token={token}" if token else "")
