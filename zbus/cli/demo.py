"""`zbus demo`: a few processes at full speed, on a bus of their own."""

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
    help="How long the demo runs.",
)
@_processes("--publishers", "Number of publishing processes, at most 16.")
@_processes("--subscribers", "Number of subscribing processes, at most 16.")
def demo(seconds: float, publishers: int, subscribers: int) -> None:
    """Show the bus at work, with a few processes at full speed.

    They use a bus of their own, in a temporary directory that is removed afterwards. Ctrl-C ends the demo
    early.

    Exit codes: 0 it ran, also if Ctrl-C ended it; 1 its processes could not start.

    \b
    Example:
      zbus demo --seconds 20 --publishers 3
    """
    check_stdout()
    with TemporaryDirectory(prefix="zbus-demo-") as directory, _Screen() as screen:
        with _DemoProcesses(directory, screen) as processes:
            try:
                processes.start("subscriber", subscribers)
                processes.start("publisher", publishers)
                screen.line(f"look inside from another terminal: zbus ls --bus {BUS} --dir {directory}")
                _watch(processes, screen, seconds)
            except Interrupted as interrupted:
                if interrupted.signal != signal.SIGINT:
                    raise
        screen.line(
            f"{processes.sent:,} events sent, {processes.received:,} received, {processes.lost:,} lost"
        )


def _watch(processes: _DemoProcesses, screen: _Screen, seconds: float) -> None:
    """Show some of the events, and each second how many there were."""
    now = then = time.monotonic()
    end = now + seconds
    before = processes.received
    while now < end:
        for peer in processes.reports(min(end, then + _STATUS_SECONDS) - now):
            if peer.sample:
                screen.line(f"{peer.name}  {peer.sample}")
        now = time.monotonic()
        if now >= then + _STATUS_SECONDS:
            rate = (processes.received - before) / (now - then)
            screen.status(
                f"{rate:11,.0f} events/s    {processes.received:,} received    {processes.lost:,} lost"
            )
            then, before = now, processes.received


class _Screen:
    """Lines that scroll, with a status below them on a terminal. Elsewhere the status is one more line."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        # isatty rather than what rich thinks, which the environment can override: no control codes in a pipe.
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
    """A process of the demo, and its latest report."""

    def __init__(self, role: str, number: int, process: subprocess.Popen[bytes]) -> None:
        self.role = role
        self.name = f"{role} {number + 1}"
        self.process = process
        self.ready = False
        self.gone = False
        self.events = self.lost = 0
        self.sample = ""


class _DemoProcesses:
    """The processes of the demo. Leaving the `with` block ends them; after that the sums are final.

    Attributes:
        sent, received, lost: events of all processes.
    """

    def __init__(self, directory: str, screen: _Screen) -> None:
        self._directory = directory
        self._screen = screen
        self._peers: dict[int, _Peer] = {}
        self._reading, self._writing = os.pipe()
        self._rest = b""

    def __enter__(self) -> _DemoProcesses:
        return self

    def __exit__(self, *exception: object) -> None:
        ignore_signals()
        # Publishers first, so that subscribers receive everything that was sent.
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
        with hold_signals():  # a process that is not in the table would not be ended
            # In a process group of its own: Ctrl-C reaches only this process, which ends the others in order.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._writing, process_group=0)
            peer = self._peers[process.pid] = _Peer(role, index, process)
        self._screen.line(f"{peer.name}  {describe(role, index)}")
        return peer

    def reports(self, timeout: float) -> list[_Peer]:
        """Return the processes that have reported, waiting at most `timeout` seconds for a report."""
        for peer in self._peers.values():
            if not peer.gone and peer.process.poll() is not None:
                peer.gone = True
                self._screen.line(f"{peer.name}  has died, exit code {peer.process.returncode}")
        return self._read() if select.select([self._reading], [], [], timeout)[0] else []

    def _read(self) -> list[_Peer]:
        *lines, self._rest = (self._rest + os.read(self._reading, 65_536)).split(b"\n")
        return [self._update(orjson.loads(line)) for line in lines]

    def _update(self, report: dict[str, Any]) -> _Peer:
        peer = self._peers[report["pid"]]
        peer.ready = True
        peer.events, peer.lost, peer.sample = report["events"], report["lost"], report["sample"]
        return peer


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End `processes` by closing their stdin, and kill those that don't end in time."""
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
