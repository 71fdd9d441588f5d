"""Fault 15: processes that end in their own ways, or name the bus and its directory in their own ways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zbus
from tests.live import late, test_consumers_at_exit, test_default_bus, test_sigterm
from tests.live.quiet import forwarded
from tests.live.test_hard_ends import APP, end_celery
from tests.live.test_other_paths import NAMESPACE, paths

from .harness import Row, Stage

_ROOT = Path(__file__).parents[2]
_LARGE = 300_000
_SECONDS = 120.0


def ended(stage: Stage) -> Iterator[Row]:
    yield from _by_other_paths(stage)
    for how in ("os._exit", "SIGKILL"):
        yield _children(stage, f"forked children end by {how}", "at_once", how)
    for module in ("multiprocessing", "billiard", "multiprocess"):
        yield _pool(stage, module)
    yield _celery(stage)
    yield _late(stage)
    yield _named(stage)
    yield _terminated(stage)
    yield _consumers(stage)


class Listener:
    """Counts what comes on the bus of a stage, in a thread, until as much has come or time is over."""

    def __init__(self, stage: Stage, count: int, pause: float = 0.0, **options: Any) -> None:
        self._sub = stage.bus().subscribe("jobs", **options)
        self._count, self._pause = count, pause
        self._got: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while len(self._got) < self._count:
                evt, _ = self._sub.channel().receive(timeout=20)
                self._got.append(evt and evt.data)
                time.sleep(self._pause)
        except zbus.Timeout:  # `end` tells what is missing
            pass

    def end(self, row: Row) -> None:
        """Claim that all has come, and nothing was lost."""
        self._thread.join()
        missing = self._count - len(self._got)
        row.lost = f"{missing} of {self._count:,}"
        row.equal("missing", (missing, self._sub.lost), (0, 0))
        self._sub.close()


def _run(stage: Stage, *arguments: object, env: dict[str, str] | None = None, module: str = "ending") -> int:
    command = [sys.executable, "-m", f"tests.live.{module}", *map(str, arguments)]
    environment = {**os.environ, "ZBUS_DIR": stage.dir, **(env or {})}
    return subprocess.run(command, cwd=_ROOT, env=environment, timeout=_SECONDS, check=False).returncode


def _by_other_paths(stage: Stage) -> Iterator[Row]:
    count = stage.size(5_000, 1_500)
    for how, (within, path) in paths(stage.dir, stage.scratch).items():
        row = stage.row(f"a publisher has the directory by another path: {how}")
        if within and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
            yield row.skip("a mount namespace of one's own is not allowed here")
            continue
        listener = Listener(stage, count, 0.0002, overflow="block", capacity=10)
        command = [sys.executable, "-m", "tests.live.ending", "sends_when_told", str(count), "100"]
        environment = {**os.environ, "ZBUS_DIR": path}
        code = subprocess.run([*within, *command], cwd=_ROOT, env=environment, check=False).returncode
        row.equal("exit code", code, 0)
        listener.end(row)
        row.done = f"{count:,} events to a slow `block` reader, then `close()`"
        yield row


def _children(stage: Stage, fault: str, *what: str) -> Row:
    count = stage.size(40, 15)
    row = stage.row(fault)
    listener = Listener(stage, count)
    row.equal("exit code", _run(stage, what[0], count, 0, *what[1:]), 0)
    listener.end(row)
    row.done = f"{count} of them, one event each"
    return row


def _pool(stage: Stage, module: str) -> Row:
    count = stage.size(40, 10)
    row = stage.row(f"workers of {module} end")
    listener = Listener(stage, 3 * count)
    for what, size in (("processes", 0), ("pool", 0), ("pool", _LARGE)):
        row.equal(f"exit code of {what}", _run(stage, what, module, "fork", count, size), 0)
    listener.end(row)
    row.done = (
        f"{count} processes, and twice a pool with {count} jobs, one each; small events, then of 300 kB"
    )
    return row


def _celery(stage: Stage) -> Row:
    count = stage.size(400, 20)
    row = stage.row("workers of Celery end")
    broker = stage.scratch / "broker"
    (broker / "c").mkdir(parents=True)
    app = APP.replace("ROOT", repr(str(broker))).replace("EACH", "10")
    (stage.scratch / "app.py").write_text(app)
    environment = {**os.environ, "ZBUS_DIR": stage.dir, "PYTHONPATH": f"{stage.scratch}:{_ROOT}"}
    listener = Listener(stage, count)
    ask = f"import app; [app.work.delay(number, {_LARGE}) for number in range({count})]"
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True, timeout=_SECONDS)
    options = ["-P", "prefork", "-c", "4", "-l", "ERROR", "--without-gossip", "--without-mingle"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "app", "worker", *options],
        env=environment,
        cwd=stage.scratch,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    listener.end(row)
    row.claim("Celery fails", end_celery(worker) in (0, -signal.SIGKILL))
    row.done = f"{count} tasks, an event of 300 kB each; a process after every 10"
    return row


def _late(stage: Stage) -> Row:
    row = stage.row("sends after the process has closed its buses")
    hows = ["registered_before", "logging_shutdown", "finalizer", "module_teardown", "with_asyncio"]
    count = stage.size(2_000, 200)
    listener = Listener(stage, 2 * count * len(hows))
    for how in hows:
        code = _run(stage, how, env={"LATE_COUNT": str(count)}, module=late.__name__.rpartition(".")[2])
        row.equal(f"exit code, {how}", code, 0)
    listener.end(row)
    row.done = f"`atexit` before zbus, `logging.shutdown`, a finalizer, `__del__`, asyncio: {count:,} each"
    return row


def _named(stage: Stage) -> Row:
    row = stage.row("`$ZBUS_BUS` names the bus")
    sub = stage.enter(zbus.Bus("prod", dir=stage.dir)).subscribe("jobs")
    environment = {**os.environ, "ZBUS_DIR": stage.dir, "ZBUS_BUS": "prod"}
    for code in test_default_bus.WAYS.values():
        command = [sys.executable, "-c", test_default_bus.PRELUDE + code]
        subprocess.run(command, env=environment, timeout=_SECONDS, check=True)
        row.equal(f"heard from {code}", sub.channel().receive(timeout=10)[1], True)
    row.done = f"{len(test_default_bus.WAYS)} ways to send without a name"
    row.lost = "nothing"
    return row


def _start(stage: Stage, program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=test_consumers_at_exit.CHECKOUT,
        env={**os.environ, "ZBUS_DIR": stage.dir},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _terminated(stage: Stage) -> Row:
    row = stage.row("SIGTERM to a slow `block` reader that closes its subscription")
    count = stage.size(3_000, 500)
    bus = stage.bus()
    process = _start(stage, test_sigterm.THREADS)
    for number in range(count):
        bus.send("jobs", "job", "/1", number)
    bus.flush(_SECONDS)
    while not forwarded(process.pid):
        pass  # `close` does not wait for what is between its forwarder and its channel
    process.send_signal(signal.SIGTERM)
    processed = int(process.communicate(timeout=_SECONDS)[0])
    row.equal("exit code", process.returncode, 0)
    row.equal("processed", processed, count)
    row.done = f"{count:,} events sent, all processed"
    return row


def _consumers(stage: Stage) -> Row:
    row = stage.row("the main thread ends, and a consumer thread is not a daemon")
    listener = Listener(stage, 2 * len(test_consumers_at_exit.CONSUMERS))
    took: list[float] = []
    for consumer in test_consumers_at_exit.CONSUMERS.values():
        program = test_consumers_at_exit.PRELUDE + consumer + test_consumers_at_exit.FILL
        process = _start(stage, program)
        start = time.monotonic()
        process.communicate(timeout=_SECONDS)
        took.append(time.monotonic() - start)
        row.equal("exit code", process.returncode, 0)
    listener.end(row)
    row.at_most("the program ends after", max(took), 5, "s")
    row.done = f"{len(took)} ways to consume; each drains, and sends"
    return row
