"""`zbus demo`: a few processes on a private bus, at full speed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .demo_peer import BUS, describe
from .signals import Interrupted, hold_signals, ignore_signals
from .standard_streams import check_stdout

__all__ = ["demo"]

_START_SECONDS = 30.0
_END_SECONDS = 6.0
_STATUS_SECONDS = 1.0

_Function = TypeVar("_Function", bound=Callable[..., object])


def _processes(name: str, help: str) -> Callable[[_Function], _Function]:
    return click.option(
        name, metavar="N", type=click.IntRange(1, 16), default=2, show_default=True, help=help
    )


@click.command()
@click.option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(min=0, max=86_400),
    default=8.0,
    show_default=True,
    help="How long it runs.",
)
@_processes("--publishers", "Publishing processes, at most 16.")
@_processes("--subscribers", "Subscribing processes, at most 16.")
def demo(seconds: float, publishers: int, subscribers: int) -> None:
    """Show the bus at work, with a few processes at full speed.

    They have a bus of their own, in a temporary directory that goes with them, and end after some seconds or
    with Ctrl-C.

    \b
    Example:
      zbus demo --seconds 20 --publishers 3
    """
    check_stdout()
    with TemporaryDirectory(prefix="zbus-demo-") as directory, _Screen() as screen:
        with _Cast(directory, screen) as cast:
            try:
                cast.start("subscriber", subscribers)
                cast.start("publisher", publishers)
                screen.line(f"look inside from another terminal: zbus ls --bus {BUS} --dir {directory}")
                _watch(cast, screen, seconds)
            except Interrupted as interrupted:
                if interrupted.signal != signal.SIGINT:
                    raise
        screen.line(f"{cast.sent:,} events sent, {cast.received:,} received, {cast.lost:,} lost")


def _watch(cast: _Cast, screen: _Screen, seconds: float) -> None:
    """Show a sample of the events and, each second, how many there were."""
    now = then = time.monotonic()
    end = now + seconds
    before = cast.received
    while now < end:
        for peer in cast.reports(min(end, then + _STATUS_SECONDS) - now):
            if peer.sample:
                screen.line(f"{peer.name}  {peer.sample}")
        now = time.monotonic()
        if now >= then + _STATUS_SECONDS:
            rate = (cast.received - before) / (now - then)
            screen.status(f"{rate:11,.0f} events/s    {cast.received:,} received    {cast.lost:,} lost")
            then, before = now, cast.received


class _Screen:
    """Lines that scroll and, on a terminal, a status that stays below them; elsewhere that is a line, too."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        # isatty, not rich's opinion, which the environment may force: a pipe gets no control codes.
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if sys.stdout.isatty() else None
        )

    def __enter__(self) -> _Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        if self._live:
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            click.echo(text)

    def status(self, text: str) -> None:
        if self._live:
            self._live.update(Text(text, style="bold"), refresh=True)
        else:
            click.echo(text)


class _Peer:
    """A process of the demo, and what it last said."""

    def __init__(self, role: str, number: int, process: subprocess.Popen[bytes]) -> None:
        self.role = role
        self.name = f"{role} {number + 1}"
        self.process = process
        self.ready = False
        self.gone = False
        self.events = self.lost = 0
        self.sample = ""


class _Cast:
    """The processes of the demo; leaving the `with` block ends them, after which the sums are final.

    Attributes:
        sent, received, lost: events of all processes.
    """

    def __init__(self, directory: str, screen: _Screen) -> None:
        self._directory = directory
        self._screen = screen
        self._peers: dict[int, _Peer] = {}
        self._reading, self._writing = os.pipe()
        self._rest = b""

    def __enter__(self) -> _Cast:
        return self

    def __exit__(self, *exception: object) -> None:
        ignore_signals()
        # Publishers first: subscribers then receive all that was sent.
        for role in ("publisher", "subscriber"):
            _end([peer.process for peer in self._peers.values() if peer.role == role])
        os.close(self._writing)
        while self._read():
            pass
        os.close(self._reading)

    @property
    def sent(self) -> int:
        return sum(peer.events for peer in self._peers.values() if peer.role == "publisher")

    @property
    def received(self) -> int:
        return sum(peer.events for peer in self._peers.values() if peer.role == "subscriber")

    @property
    def lost(self) -> int:
        return sum(peer.lost for peer in self._peers.values())

    def start(self, role: str, number: int) -> None:
        """Start `number` processes and wait until each is on the bus."""
        started = [self._start(role, index) for index in range(number)]
        deadline = time.monotonic() + _START_SECONDS
        while not all(peer.ready for peer in started):
            if any(peer.gone for peer in started) or time.monotonic() > deadline:
                raise click.ClickException(f"a {role} of the demo did not start")
            self.reports(_STATUS_SECONDS)

    def _start(self, role: str, index: int) -> _Peer:
        command = [sys.executable, "-m", "zbus.cli.demo_peer", role, str(index), self._directory]
        with hold_signals():  # no process without its place in the table, from which it is ended
            # A process group of its own: Ctrl-C is for this process, which then ends the others in order.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._writing, process_group=0)
            peer = self._peers[process.pid] = _Peer(role, index, process)
        self._screen.line(f"{peer.name}  {describe(role, index)}")
        return peer

    def reports(self, timeout: float) -> list[_Peer]:
        """Return the processes that report, waiting at most `timeout` seconds for one."""
        for peer in self._peers.values():
            if not peer.gone and peer.process.poll() is not None:
                peer.gone = True
                self._screen.line(f"{peer.name}  has died, exit code {peer.process.returncode}")
        return self._read() if select.select([self._reading], [], [], timeout)[0] else []

    def _read(self) -> list[_Peer]:
        *lines, self._rest = (self._rest + os.read(self._reading, 65_536)).split(b"\n")
        return [self._note(orjson.loads(line)) for line in lines]

    def _note(self, report: dict[str, Any]) -> _Peer:
        peer = self._peers[report["pid"]]
        peer.ready = True
        peer.events, peer.lost, peer.sample = report["events"], report["lost"], report["sample"]
        return peer


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Close the stdin of `processes`, which ends them, and see to it that they do."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    deadline = time.monotonic() + _END_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
