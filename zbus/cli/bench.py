"""`zbus bench`: how fast the bus is on this machine, beside raw pyzmq."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, NamedTuple

import click
import orjson
import zmq

import zbus

from ..observe.loopback import own_bus
from ..roster.location import locate
from ..runtime.threads import start
from .bench_peer import COMMAND, DATA, END, PEER, WAYS, Way, opened, turn
from .options import directory_option, needs, notice
from .plain import plain
from .signals import hold_signals, ignore_signals
from .standard_streams import check_stdout
from .units import duration_text

__all__ = ["bench"]

_RATE_SECONDS, _LATENCY_SECONDS = 0.6, 0.5
_ROUND_SECONDS = 2 * (_RATE_SECONDS + _LATENCY_SECONDS)
# Looking at the clock for each event would cost as much as sending a small one.
_AT_ONCE, _AT_ONCE_BYTES = 100, 100_000
_WARM_UP = 20


class _Figures(NamedTuple):
    throughput: float
    p50: float
    p99: float
    max: float


class _Measured:
    """What was measured of one way."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.latencies: list[float] = []

    def figures(self) -> _Figures:
        times = sorted(self.latencies)
        return _Figures(
            throughput=median(self.rates),
            p50=times[len(times) // 2],
            p99=times[len(times) * 99 // 100],
            max=times[-1],
        )


def _plot_file(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and Path(value).suffix.lower() not in (".svg", ".png"):
        raise click.BadParameter(f"{value} is neither an SVG nor a PNG: end its name with .svg or .png")
    return value


@click.command()
@click.option(
    "--size",
    metavar="BYTES",
    type=click.IntRange(0, 10_000_000),
    default=100,
    show_default=True,
    help="How long the text is that each event carries.",
)
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help=f"How often each measurement is made. A round takes about {_ROUND_SECONDS:.0f} seconds.",
)
@click.option("--plot", metavar="FILE", callback=_plot_file, help="Draw the latencies, as .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@directory_option
def bench(size: int, rounds: int, plot: str | None, as_json: bool, directory: str | None) -> None:
    """Measure throughput and latency, beside raw pyzmq.

    Two processes exchange events, in turn by zbus and by raw pyzmq with the same JSON, queues and
    back-pressure. They use a bus of their own below the same directory, which is removed afterwards, so
    nobody else gets these events. The load of other processes is in the figures: compare the two columns, or
    two runs on an idle machine.

    Throughput is the median of all rounds; latency is half the time of a round trip. The ratio is zbus over
    pyzmq.

    --plot needs the extra `plot`, which is the package matplotlib.

    The JSON object has `size`, `rounds`, and `pyzmq`, `zbus` and `ratio` with `throughput` (events a second)
    and `p50`, `p99` and `max` (seconds).

    Exit codes: 0 measured, 1 it could not be, for example for want of a directory or a package.

    \b
    Examples:
      zbus bench
      zbus bench --size 10000 --plot latency.svg
    """
    check_stdout()
    with _plotting(plot) as file:
        notice(f"measuring for about {rounds * _ROUND_SECONDS:.0f} seconds")
        pyzmq, ours = _measure(size, rounds, directory)
        both = pyzmq.figures(), ours.figures()
        ratio = _Figures(*(one / other for one, other in zip(both[1], both[0], strict=True)))
        if as_json:
            named = dict(zip((*WAYS, "ratio"), map(plain, (*both, ratio)), strict=True))
            click.echo(orjson.dumps({"size": size, "rounds": rounds, **named}).decode())
        else:
            _print(*both, ratio)
        if file is not None:
            from .latency_plot import draw  # it imports matplotlib

            draw(
                file,
                Path(file.name).suffix[1:].lower(),
                dict(zip(WAYS, (pyzmq.latencies, ours.latencies), strict=True)),
            )


@contextmanager
def _plotting(plot: str | None) -> Iterator[BinaryIO | None]:
    """Yield the file of the plot, before anything is measured: it would be in vain."""
    if plot is None:
        yield None
        return
    needs("--plot", "plot", "matplotlib")
    try:
        file = open(plot, "wb")  # noqa: SIM115  # it is closed below
    except OSError as error:
        raise click.ClickException(f"{plot}: {error.strerror or error}") from error
    with file:
        yield file


def _measure(size: int, rounds: int, directory: str | None) -> tuple[_Measured, _Measured]:
    """Return what was measured of each way."""
    root = zbus.peers(dir=directory).path.parents[1]
    found = _Measured(), _Measured()
    data = {"text": "x" * size}
    with own_bus(root, "bench") as name, ExitStack() as stack:
        bus = stack.enter_context(zbus.Bus(name, dir=root, linger=0.0))
        process = stack.enter_context(_other_process(name, root, size))
        start("zbus-bench", _close_after, process, bus)
        try:
            ways = stack.enter_context(opened(bus, locate(root, name), (COMMAND, PEER), size))
            for number in range(rounds):
                for index, way in turn(ways, number):
                    _send_for(way, data, size)
                    found[index].rates.append(_told(process))
                for index, way in turn(ways, number):
                    found[index].latencies += _latencies(way, data)
        except (zmq.ZMQError, zbus.Canceled, StopIteration) as error:
            raise click.ClickException("the other process of the benchmark has ended") from error
    return found


@contextmanager
def _other_process(name: str, root: Path, size: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process at the other end; at the end of the block, it is gone."""
    command = [sys.executable, "-m", "zbus.cli.bench_peer", name, os.fspath(root), str(size)]
    with ExitStack() as stack:
        with hold_signals():
            # In a process group of its own: Ctrl-C reaches only this process.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
            )
            stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    ignore_signals()
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def _close_after(process: subprocess.Popen[bytes], bus: zbus.Bus) -> None:
    """Close the bus when the other process has ended: nothing would come any more."""
    process.wait()
    bus.close()


def _send_for(way: Way, data: Any, size: int) -> None:
    send, at_once = way.send, max(1, min(_AT_ONCE, _AT_ONCE_BYTES // (size + 1)))
    send(DATA, data)
    end = time.perf_counter() + _RATE_SECONDS
    while time.perf_counter() < end:
        for _ in range(at_once):
            send(DATA, data)
    send(END, None)


def _told(process: subprocess.Popen[bytes]) -> float:
    """Return what the other process has counted."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise StopIteration
    return float(line)


def _latencies(way: Way, data: Any) -> list[float]:
    """Return half the times of round trips, in seconds."""
    times: list[float] = []
    end = time.perf_counter() + _LATENCY_SECONDS
    while (begun := time.perf_counter()) < end or len(times) < 2 * _WARM_UP:
        way.send(DATA, data)
        next(way.received)
        times.append((time.perf_counter() - begun) / 2)
    way.send(END, None)
    next(way.received)
    return times[_WARM_UP:]


def _print(pyzmq: _Figures, ours: _Figures, ratio: _Figures) -> None:
    click.echo(f"{'':11}{'pyzmq':>10}{'zbus':>10}{'ratio':>8}")
    click.echo(f"{'events/s':11}{pyzmq.throughput:>10,.0f}{ours.throughput:>10,.0f}{ratio.throughput:>8.2f}")
    for field in ("p50", "p99", "max"):
        values = (duration_text(getattr(figures, field)) for figures in (pyzmq, ours))
        click.echo(
            f"latency {field}"
            + "".join(f"{value:>10}" for value in values)
            + f"{getattr(ratio, field):>8.2f}"
        )
