"""Programs whose threads are greenlets, by gevent or eventlet, patched before zbus is imported or after."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zbus

from .process import directory, receive

SECONDS = 30
PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "nothing": "",
}

# What the kernel says of each thread: whether it is the main one, its name, blocked signals, scheduling.
PROGRAM = """
{before}
import os, signal, sys, time
import zbus
{after}
def threads():
    for number in map(int, os.listdir("/proc/self/task")):
        try:
            with open(f"/proc/self/task/{{number}}/status") as file:
                facts = dict(line.split(":", 1) for line in file)
            scheduling = os.sched_getscheduler(number)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        yield number == os.getpid(), facts["Name"].strip(), int(facts["SigBlk"], 16), scheduling
def main_thread():
    return [thread for thread in threads() if thread[0]]
def blocks_all(mask):
    return all(mask >> (number - 1) & 1 for number in signal.valid_signals() - {{9, 19}})

first = main_thread()
sub = zbus.subscribe("a", overflow="{overflow}")
zbus.send("a", "b", "/1", 1)
assert sub.channel().receive(timeout=10)[0].data == 1
time.sleep(0.01)  # the patched one
deadline = time.monotonic() + 10
while len(helpers := [thread for thread in threads() if not thread[0]]) > {ours} + 2:
    assert time.monotonic() < deadline, helpers  # the one that started the others takes a moment to go
assert sum(name.startswith("zbus-") for _, name, _, _ in helpers) == {ours}, helpers
assert len(helpers) == {ours} + 2, helpers
assert all(blocks_all(blocked) for _, _, blocked, _ in helpers), helpers
with zbus.Bus() as other:
    other.send("a", "b", "/2", 2)
assert sub.channel().receive()[0].data == 2
assert main_thread() == first
sub.close()
assert sub.channel().receive(timeout=10) == (None, False)
zbus.close()
assert main_thread() == first, main_thread()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
zbus.send("a", "b", "/3", 3)  # on a new bus, which the end of the program closes
print("done")
"""


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("patch", PATCHES)
def test_a_program_that_is_patched(bus: zbus.Bus, patch: str, order: str, overflow: str) -> None:
    sub = bus.subscribe("a")
    lines = {"before": "", "after": "", order: PATCHES[patch]}
    code = PROGRAM.format(**lines, overflow=overflow, ours=4 if overflow == "latest" else 3)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert [receive(sub).data for _ in range(3)] == [1, 2, 3]


APP = """
import zbus

sub = None

def app(environ, start_response):
    global sub
    if sub is None:
        sub = zbus.subscribe("to.web")
    if environ["PATH_INFO"] == "/send":
        zbus.send("from.web", "request", "/send", "hello")
        body = "sent"
    elif environ["PATH_INFO"] == "/receive":
        evt, ok = sub.channel().receive(timeout=10)
        body = evt.data
    else:
        body = "ready"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
"""


@contextmanager
def gunicorn(kind: str, folder: Path) -> Iterator[Path]:
    """Serve `APP` in a worker of `kind`; give the address."""
    folder.joinpath("webapp.py").write_text(APP)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "gunicorn",
        "-k",
        kind,
        "--bind",
        "unix:http",
        "webapp:app",
    ]
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
    try:
        yield folder / "http"
        server.terminate()
        assert server.wait(SECONDS) == 0, log.read_text()
    finally:
        server.kill()
        server.wait()


def ask(address: Path, path: str) -> str:
    """Return the answer to a request, once the server is there."""
    deadline = time.monotonic() + SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            try:
                connection.connect(str(address))
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
                continue
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
            head, _, body = answer.partition("\r\n\r\n")
            assert " 200 " in head
            return body


@pytest.mark.parametrize("kind", ["gevent", "gthread", "sync"])
def test_a_worker_of_gunicorn_sends_and_receives(bus: zbus.Bus, tmp_path: Path, kind: str) -> None:
    sub = bus.subscribe("from.web")
    with gunicorn(kind, tmp_path) as address:
        assert ask(address, "/ready") == "ready"
        assert ask(address, "/send") == "sent"
        assert receive(sub).data == "hello"
        for number in range(3):
            bus.send("to.web", "answer", "/", f"event {number}")
            assert ask(address, "/receive") == f"event {number}"
    path = directory(bus)
    assert len(list(path.glob("*.member"))) == 1, "the worker has left nothing"
    assert len(list(path.glob("*.drop"))) == 1
