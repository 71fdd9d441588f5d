"""`zbus why`: who receives an event, and the reason for everyone who does not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import zbus

from .cli import SECONDS, ended, run, subscribed
from .numbers import lose_some, numbers
from .process import stop
from .silent import Silent

TOPIC = ("orders.eu", "order.created")

pytestmark = pytest.mark.usefixtures("zbus_dir")


def asked(*args: str, **env: str) -> tuple[dict[str, Any], int]:
    """Return what `zbus why --json` says of the topic, and its exit code."""
    done = run("why", *TOPIC, "--json", *args, **env)
    return json.loads(done.stdout), done.returncode


def verdicts(said: dict[str, Any]) -> dict[str, str]:
    """Return the verdict by the system pattern of each subscriber."""
    return {row["system"]: row["verdict"] for row in said["subscribers"]}


def test_who_receives_it_and_who_does_not() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**"), zbus.Bus() as other, other.subscribe("Orders.*"):
        said, code = asked()
        text = run("why", *TOPIC)
    assert (code, text.returncode, text.stderr) == (0, 0, "")
    assert said["receives"] is True
    assert verdicts(said) == {"orders.**": "receives", "Orders.*": "no-match"}
    first, second, sent = text.stdout.splitlines()
    me = f"({os.getpid()}, "
    assert me in first
    assert first.endswith("receives it by 'orders.**' (drop)")
    assert second.endswith(
        "no pattern matches; the nearest is 'Orders.*' (system: letter case: 'Orders' is not 'orders'):"
        " 'orders.*' would"
    )
    assert sent == "nobody on the bus has sent it"


def test_a_subscriber_to_the_system_with_another_kind() -> None:
    with zbus.Bus() as bus, bus.subscribe("metrics", "cpu"), bus.subscribe("orders.**", "order_created"):
        said, code = asked()
    [row] = said["subscribers"]
    assert (code, said["receives"], row["verdict"], row["instead"]) == (1, False, "no-match", None)
    assert (row["system"], row["kind"]) == ("orders.**", "order_created")
    assert row["detail"].startswith("kind: ")


def test_nobody_subscribes() -> None:
    text = run("why", *TOPIC)
    assert text.returncode == 1
    assert text.stdout.startswith("nobody subscribes on bus default in ")
    assert text.stderr == "zbus: nobody receives orders.eu order.created on bus default\n"


def test_one_that_does_not_answer(silent: Silent) -> None:
    silent.add(about={"pid": os.getpid(), "patterns": [["orders.eu", "*", "drop"]], "channels": 1})
    said, code = asked()
    [row] = said["subscribers"]
    assert (code, said["receives"], row["verdict"]) == (1, False, "not-settled")
    assert row["detail"].startswith("its process does not answer")


def test_one_that_is_stopped_and_one_that_is_dead() -> None:
    with subscribed("orders.eu") as sleeper, subscribed("orders.*") as victim:
        stop(sleeper.pid)
        victim.kill()
        victim.wait(SECONDS)
        said, code = asked()
        sleeper.send_signal(signal.SIGCONT)
        assert verdicts(said) == {"orders.eu": "stopped", "orders.*": "dead"}
        assert code == 1
        sleeper.send_signal(signal.SIGTERM)
        assert ended(sleeper)[2] == 143
    with zbus.Bus():  # cleans up
        pass


def test_one_whose_queue_was_full() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**", capacity=5) as sub:
        lose_some(bus, sub, *TOPIC)
        bus.send(*TOPIC, "/")  # and nobody reads it
        lost = numbers(lambda it: it.by_channel and (it.by_channel[0].unread or 0) > 1).by_channel[0].lost
        said, code = asked()
    [row] = said["subscribers"]
    assert (code, row["verdict"], row["lost"]) == (0, "losing", lost)
    assert row["detail"].startswith(f"its queue was full: it has lost {lost:,} events")


def test_one_that_does_not_read() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**"):
        bus.send(*TOPIC, "/")
        numbers(lambda it: it.by_channel and (it.by_channel[0].unread or 0) > 1)
        said, code = asked()
    [row] = said["subscribers"]
    assert (code, row["verdict"]) == (0, "waiting")
    assert row["unread"] > 1


def test_who_sends_it_or_something_like_it() -> None:
    with zbus.Bus() as bus:
        bus.send("orders.eu", "order.made", "/")
        bus.send("Orders.eu", "order.created", "/")
        numbers(lambda it: len(it.by_topic) == 2)
        said, _ = asked()
        assert sorted(said["similar"]) == [["Orders.eu", "order.created"], ["orders.eu", "order.made"]]
        assert "; what is sent: " in run("why", *TOPIC).stdout
        bus.send(*TOPIC, "/")
        numbers(lambda it: len(it.by_topic) == 3)
        said, _ = asked("--from", str(os.getpid()))
    assert [(row["pid"], row["events"]) for row in said["publishers"]] == [(os.getpid(), 1)]
    assert said["similar"] == []


def test_only_the_subscribers_of_one_member() -> None:
    with subscribed("orders.**") as process, zbus.Bus() as bus, bus.subscribe("metrics"):
        [member] = {peer.id for peer in zbus.peers() if peer.role == "member" and peer.pid == process.pid}
        for name in (str(process.pid), member):
            assert verdicts(asked("--to", name)[0]) == {"orders.**": "receives"}
        assert asked("--to", str(os.getpid()))[1] == 1
        unknown = run("why", *TOPIC, "--to", "mailer")
        process.send_signal(signal.SIGTERM)
        assert ended(process)[2] == 143
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("zbus: no member is called 'mailer': name one by its id, ")
    assert f"zbus ({process.pid})" in unknown.stderr or "__main__.py" in unknown.stderr


def test_one_that_is_on_another_bus(zbus_dir: str) -> None:
    runtime = Path(zbus_dir, "run")
    runtime.mkdir()
    with (
        zbus.Bus("shop") as named,
        named.subscribe("orders.**"),
        zbus.Bus(dir=runtime / "zbus") as rooted,
        rooted.subscribe("orders.*"),
    ):
        said, code = asked(XDG_RUNTIME_DIR=str(runtime))
        text = run("why", *TOPIC, XDG_RUNTIME_DIR=str(runtime)).stdout
    found = {(row["bus"], row["root"]) for row in said["elsewhere"]}
    assert code == 1
    assert {("shop", zbus_dir), ("default", f"{runtime}/zbus")} <= found
    assert f"but is on another bus: zbus why --bus shop --dir {zbus_dir} orders.eu order.created" in text


def test_what_a_policy_denies(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[rule]]\neffect = "deny"\naction = "events.send"\nsystem = "orders.**"\n')
    with zbus.Bus() as bus, bus.subscribe("**"):
        said, code = asked("--policy", str(file))
        assert asked()[1] == 0
    assert (code, said["receives"]) == (1, False)
    assert said["denied"] == [f"policy {file} denies to send to orders.eu"]
    missing = run("why", *TOPIC, "--policy", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "No such file" in missing.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("orders.*", "k"), "zbus: system 'orders.*' contains '*'"),
        (("orders", ""), "zbus: kind is required"),
        (("orders",), "zbus: Missing argument 'KIND'; see zbus why --help"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], said: str) -> None:
    done = run("why", *args)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_looking_leaves_no_trace(zbus_dir: str) -> None:
    assert run("why", *TOPIC).returncode == 1
    assert os.listdir(zbus_dir) == []
