"""A process that ends without atexit has handed over what it sent: children of pools, `os._exit`, SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zbus

from .test_flush import ROOT, end

CHILDREN = 30
LARGE = 300_000


def collect(sub: zbus.Subscription, count: int) -> list[Any]:
    """Return the numbers of `count` events, sorted, or of as many as come."""
    found: list[Any] = []
    try:
        while len(found) < count:
            evt, _ = sub.channel().receive(timeout=60)
            assert evt is not None
            found.append(evt.data[0])
    except zbus.Timeout:  # the caller will see what is missing
        pass
    return sorted(found)


@pytest.fixture
def sub(bus: zbus.Bus, zbus_dir: str) -> Any:
    """Give a subscription; at the end clear away what those left that did not close."""
    yield bus.subscribe("jobs")
    zbus.Bus(dir=zbus_dir).close()


# More than the kernel takes at once needs somebody who waits, as os._exit does; a signal does not.
@pytest.mark.parametrize(
    ("how", "size"), [("os._exit", LARGE), ("os._exit", 0), ("SIGKILL", 0), ("SIGTERM", 0)]
)
@pytest.mark.parametrize("when", ["forked", "at_once"])
def test_children_that_send_one_event_and_end(sub: zbus.Subscription, when: str, size: int, how: str) -> None:
    assert end(when, CHILDREN, size, how) == 0
    assert collect(sub, CHILDREN) == list(range(CHILDREN))


@pytest.mark.parametrize("module", ["multiprocessing", "billiard", "multiprocess"])
@pytest.mark.parametrize("what", ["processes", "pool"])
@pytest.mark.parametrize(("method", "size"), [("fork", 0), ("fork", LARGE), ("spawn", 0)])
def test_children_of_pools(sub: zbus.Subscription, module: str, what: str, method: str, size: int) -> None:
    count = CHILDREN if method == "fork" else 4
    assert end(what, module, method, count, size) == 0
    assert collect(sub, count) == list(range(count))


def test_a_program_that_becomes_another(sub: zbus.Subscription) -> None:
    assert end("executed") == 0
    assert collect(sub, 1_001) == list(range(1_001))


def test_an_exit_while_another_thread_sends_takes_no_second(bus: zbus.Bus, sub: zbus.Subscription) -> None:
    assert end("exits_amid_sends") == 0
    assert collect(sub, 1_000) == list(range(1_000))


APP = """
import celery, zbus

app = celery.Celery("app", broker="filesystem://", backend=None)
app.conf.update(
    broker_transport_options={"data_folder_in": ROOT, "data_folder_out": ROOT, "control_folder": ROOT + "/c"},
    task_ignore_result=True,
    worker_max_tasks_per_child=EACH,
    worker_hijack_root_logger=False,
)

@app.task
def work(number, size):
    zbus.send("jobs", "done", f"/{number}", [number, "x" * size])
"""


@pytest.mark.parametrize(("tasks", "each", "size"), [(40, 1, 0), (40, 10, LARGE)])
def test_tasks_of_celery(sub: zbus.Subscription, tmp_path: Path, tasks: int, each: int, size: int) -> None:
    broker = tmp_path / "broker"
    (broker / "c").mkdir(parents=True)
    app = tmp_path / "app.py"
    app.write_text(APP.replace("ROOT", repr(str(broker))).replace("EACH", str(each)))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ask = f"import app; [app.work.delay(number, {size}) for number in range({tasks})]"
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True, timeout=60)
    command = ["-m", "celery", "-A", "app", "worker", "-P", "prefork", "-c", "4", "-l", "ERROR"]
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = subprocess.Popen(
        [sys.executable, *command, *options],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert collect(sub, tasks) == list(range(tasks))
    finally:
        assert end_celery(worker) in (0, -signal.SIGKILL)


def end_celery(worker: subprocess.Popen[bytes]) -> int:
    """End a worker of Celery that leads a session; return its exit code.

    Now and then, on a busy machine, it waits forever for a lock that one of its children had when it died
    (billiard 4.3.2, `Pool._help_stuff_finish`; see celery/billiard#457). Then it is killed, provided that its
    children, which are those that use the bus, have ended.
    """
    worker.send_signal(signal.SIGTERM)
    try:
        return worker.wait(30)
    except subprocess.TimeoutExpired:
        left = [tasks.read_text() for tasks in Path(f"/proc/{worker.pid}/task").glob("*/children")]
        os.killpg(worker.pid, signal.SIGKILL)
        assert not "".join(left), f"children that do not end: {left}"
        return worker.wait()
