"""`zbus metrics`: what all members have counted, as OpenMetrics on stdout and over HTTP."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import zbus

from .cli import SECONDS, ZBUS, ended, run, run_without, started
from .numbers import numbers
from .process import directory, receive

pytestmark = pytest.mark.usefixtures("zbus_dir")

Samples = dict[str, tuple[float, dict[str, str]]]


def parsed(text: str) -> Samples:
    """Return value and labels of each sample by its name; no name may occur twice."""
    assert text.endswith("# EOF\n")
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.name not in found
            found[sample.name] = sample.value, sample.labels
    return found


@contextmanager
def counted() -> Iterator[zbus.Bus]:
    """Send 3 events of 3, and receive them."""
    with zbus.Bus() as bus, bus.subscribe("a.**", "(k|j)") as sub:
        for number in range(3):
            bus.send("a.b", "k", "/1", number)
            assert receive(sub).data == number
        numbers(lambda it: it.events == it.received == 3)
        yield bus


def check(found: Samples) -> None:
    member = {"bus": "default", "member": zbus.peers()[0].id, "process": zbus.peers()[0].process}
    me = {**member, "pid": str(os.getpid()), "user": zbus.peers()[0].user, "language": "python"}
    assert found["zbus_members"] == (1.0, {"bus": "default"})
    assert found["zbus_member_info"] == (1.0, me)
    assert found["zbus_sent_events_total"] == (3.0, member)
    assert found["zbus_lost_events_total"] == (0.0, member)
    assert found["zbus_topic_sent_events_total"] == (3.0, {**member, "system": "a.b", "kind": "k"})
    channel = {**member, "channel": "1", "system": "a.**", "kind": "(k|j)", "overflow": "drop"}
    assert found["zbus_channel_received_events_total"] == (3.0, channel)
    assert found["zbus_channel_unread_seconds"][1] == channel


def test_metrics_are_printed() -> None:
    with counted():
        told = run("metrics")
        assert (told.stderr, told.returncode) == ("", 0)
        check(parsed(told.stdout))


@contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve metrics; yield the process and its port."""
    with started("metrics", "--port", "0", *args) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith("zbus: serving http://"), line
        yield process, int(line.rpartition(":")[2].partition("/")[0])


def fetched(port: int, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def test_each_request_looks_anew_and_gets_the_format_it_asks_for() -> None:
    with serving() as (process, port):
        status, _, text = fetched(port, Accept="application/openmetrics-text; version=1.0.0")
        assert (status, parsed(text)["zbus_members"][0]) == (200, 0.0)
        with counted():
            status, kind, text = fetched(port, Accept="application/openmetrics-text; version=1.0.0")
            assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
            check(parsed(text))
            status, kind, text = fetched(port)
            assert (status, kind.partition(";")[0]) == (200, "text/plain")
            assert "# EOF" not in text
            assert "zbus_sent_events_total{" in text
        process.send_signal(signal.SIGTERM)
        assert ended(process) == ("", "", 143)


def test_only_this_machine_is_served_and_only_by_its_own_name() -> None:
    with serving() as (_, port):
        assert fetched(port, Host=f"localhost:{port}")[0] == 200
        assert fetched(port, Host="rebound.example")[0] == 403
        # They send nothing, and hold up nobody. One after the other they would, for longer than anyone waits.
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        assert fetched(port)[0] == 200
        for connection in held:
            connection.close()


def test_a_client_that_breaks_off_is_no_news() -> None:
    with serving() as (process, port):
        for begun in (b"", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(begun)
            assert fetched(port)[0] == 200  # so the one before has been accepted
            # Closed with a reset, so that reading from it is an error.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            assert fetched(port)[0] == 200
        process.send_signal(signal.SIGINT)
        assert ended(process) == ("", "", 130)


def test_a_bus_that_cannot_be_looked_at_is_an_answer_too() -> None:
    with zbus.Bus() as bus:
        place = directory(bus)
        with serving() as (_, port):
            place.chmod(0o777)
            try:
                status, _, text = fetched(port)
            finally:
                place.chmod(0o700)
            assert status == 503
            assert str(place) in text
            assert fetched(port)[0] == 200


def test_a_port_in_use_is_one_line_and_an_exit_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = run("metrics", "--port", str(port))
    said = f"zbus: port {port} of 127.0.0.1 is in use: give another --port\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", said, 1)


def test_a_full_disk_is_one_line_and_an_exit_code() -> None:
    with counted(), open("/dev/full", "w") as full:
        failed = subprocess.run(
            [*ZBUS, "metrics"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS
        )
    assert (failed.stderr, failed.returncode) == ("zbus: No space left on device\n", 1)


def test_nobody_on_the_bus_is_a_valid_answer_with_a_notice_and_an_exit_code() -> None:
    empty = run("metrics")
    assert empty.returncode == 1
    assert parsed(empty.stdout)["zbus_members"] == (0.0, {"bus": "default"})
    assert empty.stderr.startswith("zbus: nobody is on bus default in ")
    assert empty.stderr.count("\n") == 1


def test_names_that_others_chose_are_valid_labels() -> None:
    with zbus.Bus() as bus:
        place = directory(bus)
        info = {"process": '\x1b[2J"\\\n', "pid": 7, "language": "c"}
        member = place / "00000000deadbeef.member"
        rows = {"time": 10**15, "topics": [['"\\\n', "k", 1, 2]] * 2, "channels": []}
        text = json.dumps(rows).encode()
        with open(member, "wb") as file:
            head = bytes(40) + (2).to_bytes(8, "little") + bytes(80)
            file.write((head + json.dumps(info).encode()).ljust(65_536, b"\0"))
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)  # alive
            told = run("metrics")
        member.unlink()
    families = {family.name: family for family in text_string_to_metric_families(told.stdout)}
    [sample] = families["zbus_topic_sent_events"].samples
    assert sample.labels["system"] == '"\\\\n'
    assert sample.labels["process"].startswith("\\x1b[2J")


def test_without_the_extra_there_is_a_hint() -> None:
    failed = run_without("prometheus_client", "metrics")
    hint = "zbus: this command needs prometheus-client, the extra `metrics`: pip install prometheus-client\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)
