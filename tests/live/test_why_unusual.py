"""`zbus why` in less usual cases: another place, another user, a sender that stands still, many patterns."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus.observe.places import listening_buses
from zbus.roster.numbers import read_publications

from .cli import run
from .numbers import lose_some, member_file, numbers
from .process import Spawn, Worker
from .silent import Silent
from .users import STRANGER, Party, only_root

TOPIC = ("orders.eu", "order.created")


def asked(*args: str, topic: tuple[str, str] = TOPIC, **env: str) -> tuple[dict[str, Any], int]:
    """Return what `zbus why --json` says of a topic, and its exit code."""
    done = run("why", *topic, "--json", *args, **env)
    return json.loads(done.stdout), done.returncode


@pytest.mark.usefixtures("zbus_dir")
def test_what_differs_and_what_would_do() -> None:
    with ExitStack() as stack:
        for system, kind in (
            ("orders.eu", "Order.Created"),
            ("orders", None),
            ("orders.eu.*", None),
            ("orders.eu", "order"),
            ("order.*", None),
        ):
            stack.enter_context(stack.enter_context(zbus.Bus()).subscribe(system, kind))
        said, code = asked()
    assert code == 1
    assert {row["verdict"] for row in said["subscribers"]} == {"no-match"}
    assert {(row["system"], row["kind"]): row["instead"] for row in said["subscribers"]} == {
        ("orders.eu", "Order.Created"): ["orders.eu", "order.created"],
        ("orders", "*"): ["orders.**", "*"],
        ("orders.eu.*", "*"): ["orders.eu.**", "*"],
        ("orders.eu", "order"): ["orders.eu", "order.**"],
        ("order.*", "*"): ["orders.*", "*"],
    }


@pytest.mark.usefixtures("zbus_dir")
def test_one_that_was_full_and_keeps_up_again() -> None:
    taken = threading.Semaphore(0)

    def read(sub: zbus.Subscription) -> None:
        for _ in sub:
            taken.release()

    with zbus.Bus() as bus, bus.subscribe("orders.**", capacity=5) as sub:
        lose_some(bus, sub, *TOPIC)
        reader = threading.Thread(target=read, args=(sub,))
        reader.start()
        while True:  # until it has not lost any between two publications
            bus.send(*TOPIC, "/")
            while not taken.acquire(timeout=1):  # it is lost, too: those of before may still fill the queue
                bus.send(*TOPIC, "/")
            told = read_publications(member_file())
            if told.latest and told.former:
                [[now], [before]] = told.latest.by_channel, told.former.by_channel
                if now.lost == before.lost == sub.lost and not now.unread:
                    break
        said, code = asked()
        text = run("why", *TOPIC).stdout
        lost = sub.lost
        sub.close()
        reader.join()
    [row] = said["subscribers"]
    assert (code, row["verdict"], row["lost"]) == (0, "receives", lost)
    assert row["quiet"] > 0
    assert f"(drop), but it has lost {lost:,} events since it subscribed, none for " in text


def sent_three(spawn: Spawn) -> Worker:
    """Return a process that has sent three events to "a", "k", and has published that."""
    worker = spawn("sender").ready()
    worker.tell("a 3")
    worker.hear()
    numbers(lambda it: it.events == 3, worker.pid)
    return worker


def test_a_publisher_that_is_stopped(bus: zbus.Bus, spawn: Spawn) -> None:
    topic = ("a", "k")
    with bus.subscribe("a"):
        worker = sent_three(spawn)
        numbers(lambda it: it.by_channel and (it.by_channel[0].unread or 0) > 1)
        assert asked(topic=topic)[1] == 0
        worker.signal(signal.SIGSTOP)
        said, code = asked(topic=topic)
        text = run("why", *topic).stdout
        assert asked("--from", str(os.getpid()), topic=topic)[1] == 0
        worker.signal(signal.SIGCONT)
    [row] = said["publishers"]
    assert (code, said["receives"], row["pid"], row["state"]) == (1, False, worker.pid, "stopped")
    assert [row["verdict"] for row in said["subscribers"]] == ["waiting"]  # for this test
    assert text.endswith(f": 3 so far, and its process is stopped: kill -CONT {worker.pid}\n")


def test_a_publisher_that_is_dead(bus: zbus.Bus, spawn: Spawn) -> None:
    topic = ("a", "k")
    with bus.subscribe("a"):
        worker = sent_three(spawn)
        worker.kill()
        said, code = asked(topic=topic)
        [row] = said["publishers"]
        assert (code, row["state"]) == (0, "dead")  # another may take its place
        assert asked("--from", str(worker.pid), topic=topic)[1] == 1


def test_members_with_the_same_name_are_all_looked_at(bus: zbus.Bus, spawn: Spawn) -> None:
    workers = [spawn("idle_subscriber", "orders.**", "drop", 10).ready() for _ in range(2)]
    bus.send("orders.eu", "order.made", "/")
    numbers(lambda it: it.by_topic)
    names = [peer.process for peer in zbus.peers() if peer.role == "member" and peer.pid != os.getpid()]
    assert len(names) == 2
    assert names[0] == names[1]
    said, code = asked("--to", names[0])
    assert (code, {row["pid"] for row in said["subscribers"]}) == (0, {worker.pid for worker in workers})
    said, code = asked("--from", names[0])
    assert [row["events"] for row in said["publishers"]] == [0, 0]
    assert (code, said["similar"]) == (0, [])
    said, code = asked("--from", str(os.getpid()))
    assert said["similar"] == [["orders.eu", "order.made"]]
    assert run("why", *TOPIC, "--from", names[0]).stdout.count("not sent by ") == 2


def test_a_publisher_whose_policy_denies_it_has_not_sent_it(zbus_dir: str) -> None:
    file = Path(zbus_dir) / "policy.toml"
    file.write_text('[[rule]]\neffect = "deny"\naction = "events.send"\nsystem = "orders.**"\n')
    policy = zbus.Policy.from_toml(file)
    with zbus.Bus() as bus, bus.subscribe("**"), zbus.Bus(policy=policy) as sender:
        with pytest.raises(zbus.Invalid):
            sender.send(*TOPIC, "/")
        assert "nobody on the bus has sent it" in run("why", *TOPIC).stdout
        said, code = asked("--policy", str(file))
    assert (code, said["publishers"]) == (1, [])
    assert said["denied"] == [f"policy {file} denies to send to orders.eu"]


@pytest.mark.parametrize(("here", "there"), [("XDG_RUNTIME_DIR", "TMPDIR"), ("TMPDIR", "XDG_RUNTIME_DIR")])
def test_one_whose_directory_comes_from_another_variable(zbus_dir: str, here: str, there: str) -> None:
    """The kernel tells where it listens; in the environment of `zbus why` nothing does."""
    place = Path(zbus_dir)
    below = {"XDG_RUNTIME_DIR": "zbus", "TMPDIR": f"zbus-{os.geteuid()}"}
    (place / "here").mkdir()
    (place / "there").mkdir()
    root = place / "there" / below[there]
    env = {"ZBUS_DIR": "", "XDG_RUNTIME_DIR": "", "TMPDIR": "", here: str(place / "here")}
    with zbus.Bus(dir=root) as bus, bus.subscribe("orders.**"):
        said, code = asked(**env)
    assert code == 1
    assert said["directory"] == str(place / "here" / below[here] / "v1" / "default")
    assert (os.getpid(), str(root)) in {(row["pid"], row["root"]) for row in said["elsewhere"]}


@only_root
def test_one_on_a_bus_that_nobody_else_may_look_at(zbus_dir: str) -> None:
    place = Path(zbus_dir)
    place.chmod(0o711)
    (place / "theirs").mkdir()
    os.chown(place / "theirs", STRANGER.uid, STRANGER.gid)
    with (
        zbus.Bus(dir=place / "mine") as bus,
        bus.subscribe("orders.**"),
        Party(STRANGER, env={"ZBUS_DIR": str(place / "theirs")}) as stranger,
    ):
        said = json.loads(stranger.do("why", *TOPIC, "--json"))
        text = stranger.do("why", *TOPIC)
        stranger.end()
    root = str(place / "mine")
    assert {"bus": "default", "root": root, "user": "root"} in said["closed"]
    assert root not in {row["root"] for row in said["elsewhere"]}
    assert f"bus default in {root} is of root, and you may not look there: sudo -u root zbus why" in text


@pytest.mark.usefixtures("zbus_dir")
def test_one_with_more_patterns_than_its_entry_tells() -> None:
    with ExitStack() as stack:
        bus = stack.enter_context(zbus.Bus())
        for number in range(110):
            stack.enter_context(bus.subscribe(f"orders.{number}"))
        numbers(lambda it: len(it.by_channel) == 110)
        said, code = asked(topic=("orders.109", "k"))
    [row] = said["subscribers"]
    assert (code, row["verdict"], row["system"]) == (0, "receives", "orders.109")


def test_one_that_does_not_tell_all_its_patterns(silent: Silent) -> None:
    silent.add(about={"pid": os.getpid()})
    silent.add(about={"pid": os.getpid(), "patterns": [[f"s{number}", "*"] for number in range(100)]})
    silent.add(about={"pid": os.getpid(), "patterns": [["s", "*"]]})
    said, code = asked()
    assert sorted(row["verdict"] for row in said["subscribers"]) == ["no-match", "unknown", "unknown"]
    assert code == 1
    assert "may receive it or not: it has more patterns than it tells" in run("why", *TOPIC).stdout


def test_sockets_with_any_names_are_passed_over(zbus_dir: str) -> None:
    """Anybody may bind them, and the kernel lists them as they are."""
    names = [b"\n\n", b"\x0b", b"\xff\xfe", b" a b", b"v1/shop/0123456789abcdef.sock"]
    with zbus.Bus() as bus, bus.subscribe("orders.**"), ExitStack() as stack:
        (Path(zbus_dir) / "v1" / "shop").mkdir()
        for name in names:
            bound = stack.enter_context(socket.socket(socket.AF_UNIX))
            bound.bind(os.fsencode(zbus_dir) + b"/" + name)
        found = [*listening_buses()]
        assert asked(topic=("a", "b"))[1] == 1
    (Path(zbus_dir) / "v1" / "shop" / "0123456789abcdef.sock").unlink()
    assert {("default", Path(zbus_dir)), ("shop", Path(zbus_dir))} <= {*found}
