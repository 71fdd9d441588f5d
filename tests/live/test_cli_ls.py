"""`zbus ls`: who is on the bus, for people and for programs."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.cells import cell_len

import zbus

from .cli import SECONDS, ZBUS, ended, on_a_terminal, run, subscribed
from .numbers import numbers
from .process import directory, receive

ME = pwd.getpwuid(os.getuid()).pw_name

pytestmark = pytest.mark.usefixtures("zbus_dir")


def test_ls_says_that_a_bus_is_empty_and_where_it_looked(zbus_dir: str) -> None:
    empty = run("ls")
    said = f"zbus: nobody is on bus default in {zbus_dir}/v1/default (from $ZBUS_DIR)\n"
    assert (empty.stdout, empty.stderr, empty.returncode) == ("", said, 0)
    assert run("ls", "--json").stdout == "[]\n"
    assert run("ls", "--dir", zbus_dir).stderr == said.replace("$ZBUS_DIR", "--dir")
    assert os.listdir(zbus_dir) == []


@pytest.mark.parametrize(
    ("env", "below", "why"),
    [
        ({"XDG_RUNTIME_DIR": "{}"}, "zbus", "$XDG_RUNTIME_DIR"),
        ({"TMPDIR": "{}"}, f"zbus-{os.geteuid()}", "$TMPDIR"),
    ],
    ids=["XDG_RUNTIME_DIR", "TMPDIR"],
)
def test_ls_says_what_names_the_directory(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], below: str, why: str
) -> None:
    for name in ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(zbus_dir))
    empty = run("ls", "--bus", "shop-7f3a")
    assert empty.stderr.startswith(
        f"zbus: nobody is on bus shop-7f3a in {zbus_dir}/{below}/v1/shop-7f3a (from {why})"
    )


def test_ls_says_where_somebody_is_that_was_perhaps_meant(zbus_dir: str) -> None:
    runtime = Path(zbus_dir, "run")
    runtime.mkdir()
    with zbus.Bus(dir=zbus_dir), zbus.Bus("shop", dir=zbus_dir):
        other = run("ls", "--dir", f"{zbus_dir}/x", ZBUS_DIR=zbus_dir, XDG_RUNTIME_DIR=str(runtime)).stderr
        assert f"; somebody is in {zbus_dir}: zbus ls --dir {zbus_dir}" in other
        name = run("ls", "--bus", "web", XDG_RUNTIME_DIR=str(runtime)).stderr
        assert "; somebody is on default, shop: zbus ls --bus NAME" in name
    with zbus.Bus(dir=runtime / "zbus"):
        assert f"somebody is in {runtime}/zbus: " in run("ls", XDG_RUNTIME_DIR=str(runtime)).stderr


def table(text: str) -> list[dict[str, str]]:
    """Return the rows of a table by the names of its columns."""
    header, *rows = [re.split("  +", line) for line in text.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_ls_shows_the_living_and_the_dead() -> None:
    with subscribed("orders.**", "order.*", "--overflow", "block") as process:
        ids = {peer.role: peer.id for peer in zbus.peers()}
        alive = run("ls")
        process.kill()
        process.wait(SECONDS)
        dead = run("ls")
    with zbus.Bus():  # cleans up
        pass
    for listing, state in ((alive, "alive"), (dead, "dead")):
        assert (listing.stderr, listing.returncode) == ("", 0)
        both = {"PROCESS": "zbus", "PID": str(process.pid), "USER": ME, "LANGUAGE": "python", "STATE": state}
        member = {**both, "ROLE": "member", "OVERFLOW": "-", "ID": ids["member"], "PATTERNS, TOTALS": "-"}
        subscriber = {"ROLE": "subscriber", "OVERFLOW": "block", "PATTERNS, TOTALS": "orders.** order.*"}
        assert table(listing.stdout) == [member, {**both, **subscriber, "ID": ids["subscriber"]}]


def test_ls_shows_latest_as_latest() -> None:
    with subscribed("a", "--overflow", "latest") as process:
        assert [row["OVERFLOW"] for row in table(run("ls").stdout)] == ["-", "latest"]
        assert [peer["overflow"] for peer in json.loads(run("ls", "--json").stdout)] == ["", "latest"]
        process.send_signal(signal.SIGTERM)
        assert ended(process) == ("", "", 143)


def test_ls_as_json() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**"):
        peers = json.loads(run("ls", "--json").stdout)
    assert [peer["role"] for peer in peers] == ["member", "subscriber"]
    assert {peer["pid"] for peer in peers} == {os.getpid()}
    assert peers[1]["patterns"] == [["orders.**", "*"]]
    assert all(peer["alive"] for peer in peers)
    assert {peer["user"] for peer in peers} == {ME}
    assert peers[1]["member"] == peers[0]["member"] == peers[0]["id"] != peers[1]["id"]


def test_the_origin_that_sub_prints_is_of_a_member_that_ls_shows() -> None:
    with subscribed("a", "--json", "--count", "1") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/c")
        out, _, _ = ended(process)
        [sender] = [
            peer["pid"]
            for peer in json.loads(run("ls", "--json").stdout)
            if json.loads(out)["origin"] in peer["origins"]
        ]
    assert sender == os.getpid()


def test_ls_draws_a_table_on_a_terminal() -> None:
    with zbus.Bus() as bus, bus.subscribe("[x].**"):
        shown, code = on_a_terminal("ls")
    assert code == 0
    assert "\x1b[1mPROCESS" in shown
    assert "[x].**" in shown


@pytest.mark.parametrize("width", [200, 80, 60, 40, 20])
def test_nothing_that_tells_peers_apart_is_cut_on_a_narrow_terminal(width: int) -> None:
    with zbus.Bus() as bus:
        _subs = [
            bus.subscribe("orders.**", "order.*"),
            bus.subscribe("q" * 150, "z" * 70),
            bus.subscribe("日本語"),
        ]
        shown, code = on_a_terminal("ls", COLUMNS=str(width))
        whole = {text for peer in zbus.peers() for text in (peer.id, str(peer.pid), peer.process)}
    assert code == 0
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert all(any(text in line for line in lines) for text in whole)
    assert (shown.count("q"), shown.count("z")) == (150, 70)
    assert any("日本語" in line for line in lines)
    if width >= 40:
        assert max(map(cell_len, lines)) <= width


def test_a_pipe_gets_one_line_a_peer_however_long() -> None:
    with zbus.Bus() as bus:
        _subs = [bus.subscribe(f"{number}" + "x" * 100) for number in range(50)]
        lines = run("ls", COLUMNS="40").stdout.splitlines()
    assert len(lines) == 3
    assert len(lines[2]) > 5_000


def test_names_that_others_chose_cannot_disturb_the_terminal(zbus_dir: str) -> None:
    with zbus.Bus() as bus:
        place = directory(bus)
    odd = {
        "process": "\x1b]0;title\x07\n" + "p" * 500,
        "pid": 7,
        "patterns": [["\x1b[2J", "\r\n"], ["[red]", "*"]],
    }
    entry, member = place / "00000000deadbeef.1.drop", place / "00000000deadbeef.member"
    entry.write_text(json.dumps(odd))
    member.write_bytes(b"\xff\x00")
    for shown in (
        run("ls").stdout,
        on_a_terminal("ls", COLUMNS="300")[0],
        on_a_terminal("ls", COLUMNS="40")[0],
    ):
        bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
        assert all(letter.isprintable() or letter == "\n" for letter in bare)
        assert "\\x1b]0;title\\x07\\n" in bare
        assert "[red]" in bare
        assert "p" * 200 not in bare
    assert {peer["process"] for peer in json.loads(run("ls", "--json").stdout)} == {"?", odd["process"]}
    entry.unlink()
    member.unlink()


def test_a_directory_that_cannot_be_read_is_an_error(zbus_dir: str) -> None:
    with zbus.Bus() as bus:
        place = directory(bus)
    # Root, too, but without its power over files.
    prepare = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if prepare and not shutil.which(prepare[0]):
        pytest.skip("root can read everything")
    place.chmod(0o300)
    try:
        refused = subprocess.run([*prepare, *ZBUS, "ls"], capture_output=True, text=True, timeout=SECONDS)
    finally:
        place.chmod(0o700)
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert refused.stderr.startswith(f"zbus: cannot list {place}: permission denied: ")
    assert refused.stderr.count("\n") == 1


def test_ls_shows_what_a_member_has_sent_and_received() -> None:
    with zbus.Bus() as bus, bus.subscribe("a") as sub:
        for number in range(3):
            bus.send("a", "b", "/1", number)
            assert receive(sub).data == number
        numbers(lambda it: it.received == it.events == 3)
        [member, _] = table(run("ls").stdout)
        [told, _] = json.loads(run("ls", "--json").stdout)
    assert member["PATTERNS, TOTALS"] == "sent 3, received 3"
    assert [told["numbers"][name] for name in ("events", "received", "topics", "channels")] == [3, 3, 1, 1]
    assert told["numbers"]["by_topic"][0]["kind"] == "b"


def test_ls_looks_twice_for_rates() -> None:
    with zbus.Bus() as bus, bus.subscribe("a") as sub, ThreadPoolExecutor() as pool:
        listing = pool.submit(run, "ls", "--rates", "1.5", "--json")
        sent = 0
        while not listing.done():
            bus.send("a", "b", "/1", sent)
            assert receive(sub).data == sent
            sent += 1
        [told, _] = json.loads(listing.result().stdout)
        assert told["rates"]["events"] > 0
        assert told["rates"]["by_topic"][0]["events"] > 0
        assert told["rates"]["by_channel"][0]["received"] > 0
        assert told["rates"]["by_channel"][0]["bytes"] > 0
        shown = run("ls", "--rates", "1").stdout.splitlines()
    assert shown[0].split()[:3] == ["PROCESS", "PID", "OUT/S"]
    assert any(line.startswith("< a ") for line in shown)


def test_rates_of_nobody_are_no_error_and_need_no_second_look(zbus_dir: str) -> None:
    empty = run("ls", "--rates", "3600")
    assert (empty.stdout, empty.returncode) == ("", 0)
    assert empty.stderr.startswith(f"zbus: nobody is on bus default in {zbus_dir}")
    assert run("ls", "--rates", "0.5").returncode == 2
