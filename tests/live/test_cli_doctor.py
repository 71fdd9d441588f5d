"""`zbus doctor` and `zbus check`: whether a bus is healthy, for people and for monitoring."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

import zbus

from .cli import SECONDS, ended, on_a_terminal, run, subscribed
from .numbers import lose_some, numbers
from .process import directory, stop

pytestmark = pytest.mark.usefixtures("zbus_dir")


def findings(*args: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """Return level and text by check, of `zbus doctor --json`, which ends with `code`."""
    done = run("doctor", "--json", *args)
    assert done.returncode == code, done.stdout
    return {row["check"]: (row["level"], row["text"]) for row in json.loads(done.stdout)}


def test_a_healthy_bus() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders"):
        before = sorted(os.listdir(directory(bus).parent))
        found = findings()
        assert sorted(os.listdir(directory(bus).parent)) == before  # the loopback cleaned up
    checks = {"versions", "descriptors", "directory", "file system", "files", "stale", "members", "losses"}
    assert checks | {"cleaners", "loopback"} == found.keys()
    assert {level for name, (level, _) in found.items() if name != "cleaners"} == {"ok"}
    assert f"zbus {zbus.__version__}, " in found["versions"][1]
    assert found["directory"][1].startswith(f"{directory(bus)} (from $ZBUS_DIR), ")
    assert found["members"][1] == "1 members, in python"
    took = re.fullmatch(
        r"an event takes ([\d.]+) ms from send to receive, ([\d.]+) ms at worst", found["loopback"][1]
    )
    assert took
    assert 0 < float(took[1]) <= float(took[2])


def test_as_text(zbus_dir: str) -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok       directory    " in done.stdout
    assert (
        f"{zbus_dir}/v1/default (from $ZBUS_DIR) does not exist: nobody has opened this bus yet"
        in done.stdout
    )
    assert "\x1b[" not in done.stdout


def test_on_a_terminal_the_level_has_a_colour_unless_that_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32mok" in on_a_terminal("doctor")[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in on_a_terminal("doctor")[0]


def test_what_dead_processes_left_is_told_and_removed() -> None:
    with subscribed("orders") as victim:
        victim.kill()
        victim.wait(SECONDS)
    level, text = findings()["stale"]
    assert level == "warning"
    assert f"({victim.pid}) ended without closing: run zbus doctor --fix" in text
    fixed = run("doctor", "--fix")
    assert fixed.stderr == "zbus: removed what was left of 2 dead members and subscribers\n"
    assert "nothing is left of dead processes" in fixed.stdout
    assert run("doctor", "--fix").stderr == "zbus: nothing to remove\n"


def test_files_that_are_not_ours_are_told_and_stay() -> None:
    with zbus.Bus() as bus:
        strange = directory(bus) / "notes\x1b.member"
        strange.touch()
        level, text = findings("--fix")["files"]
        assert (level, text) == (
            "warning",
            "1 files are not of a bus, and nobody removes them: notes\\x1b.member",
        )
        strange.unlink()


def test_stopped_processes_and_losses() -> None:
    with zbus.Bus() as bus, bus.subscribe("a", capacity=5) as sub, subscribed("orders") as sleeper:
        lose_some(bus, sub, "a", "b")
        stop(sleeper.pid)
        found = findings()
        sleeper.send_signal(signal.SIGCONT)
        sleeper.send_signal(signal.SIGTERM)
        assert ended(sleeper)[2] == 143
    assert found["stopped"][0] == found["losses"][0] == "warning"
    assert f"({sleeper.pid}) is stopped" in found["stopped"][1]
    assert f"has lost {sub.lost:,} events so far" in found["losses"][1]


def test_a_directory_that_others_may_write_to(zbus_dir: str) -> None:
    Path(zbus_dir).chmod(0o777)
    level, text = findings(code=1)["directory"]
    assert level == "error"
    assert text.endswith("is writable by everybody, who could forge events: chmod o-w it")
    Path(zbus_dir).chmod(0o700)


def test_check_without_thresholds_tells_the_figures() -> None:
    with zbus.Bus() as bus, bus.subscribe("a"):
        bus.send("a", "b", "/")
        numbers(lambda it: it.by_channel and (it.by_channel[0].unread or 0) > 0)
        done = run("check")
        facts = json.loads(run("check", "--json").stdout)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "OK: 1 members, 1 subscribers, 0 events lost, the oldest unread has waited "
    )
    assert " | members=1 subscribers=1 lost=0c lag=" in done.stdout
    assert facts["lag"] > 0
    assert {key: value for key, value in facts.items() if key != "lag"} == {
        "status": "ok",
        "problems": [],
        "members": 1,
        "subscribers": 1,
        "lost": 0,
    }


def test_check_ends_with_2_once_a_threshold_does_not_hold() -> None:
    holds = ("--min-members", "1", "--min-subscribers", "1", "--max-lost", "0", "--max-lag", "3600")
    assert run("check", *holds[:2]).returncode == 2
    with zbus.Bus() as bus, bus.subscribe("a", capacity=5) as sub:
        assert run("check", *holds).returncode == 0
        lose_some(bus, sub, "a", "b")
        bus.send("a", "b", "/")
        numbers(lambda it: it.by_channel and (it.by_channel[0].unread or 0) > 0)
        for args, problem in (
            (("--min-members", "2"), "1 members, at least 2 expected"),
            (("--min-subscribers", "2"), "1 subscribers, at least 2 expected"),
            (
                ("--max-lost", str(sub.lost - 1)),
                f"{sub.lost:,} events lost, at most {sub.lost - 1:,} allowed",
            ),
            (("--max-lag", "0"), "an event has waited unread for "),
        ):
            done = run("check", *args)
            assert done.returncode == 2
            assert done.stdout.startswith(f"CRITICAL: {problem}")
        both = json.loads(run("check", "--min-members", "2", "--max-lag", "0", "--json").stdout)
        assert (both["status"], len(both["problems"])) == ("beyond", 2)


def test_check_ends_with_3_if_it_cannot_look(zbus_dir: str) -> None:
    Path(zbus_dir).chmod(0o777)
    done = run("check")
    facts = json.loads(run("check", "--json").stdout)
    Path(zbus_dir).chmod(0o700)
    assert done.returncode == 3
    assert done.stdout.startswith(f"UNKNOWN: {zbus_dir} is writable by everybody")
    assert facts["status"] == "unknown"
