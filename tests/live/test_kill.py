"""Any process may die at any moment: the others lose nothing, and its leftovers go."""

from __future__ import annotations

from pathlib import Path

import zbus

from .process import Spawn


def roster_files(zbus_dir: str) -> list[str]:
    return sorted(path.name for path in Path(zbus_dir, "v1", "default").iterdir() if path.name != "token")


def test_sigkill_of_a_subscriber_in_mid_stream(spawn: Spawn, bus: zbus.Bus, zbus_dir: str) -> None:
    staying = spawn("reader", "stream", "drop").ready()
    victim = spawn("reader", "stream", "drop").ready()
    held = spawn("reader", "stream", "block").ready()
    total = 30_000
    for worker in (staying, victim, held):
        worker.tell(total)
    for number in range(1, total + 1):
        if number == total // 3:
            victim.process.kill()
        if number == total // 2:
            victim.end()
        bus.send("stream", "tick", "/1", number)
    for worker in (staying, held):
        report = worker.hear()
        assert (report["received"], report["lost"]) == (total, 0)
    zbus.Bus(dir=zbus_dir).close()
    alive = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    assert len(alive) == 2
    assert all(peer.alive for peer in zbus.peers())


def test_sigkill_of_a_publisher_in_mid_stream(spawn: Spawn, bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("stream")
    victim = spawn("publisher", "victim", 1_000_000).ready()
    steady = spawn("publisher", "steady", 20_000).ready()
    victim.tell("go")
    steady.tell("go")
    seen: dict[str, list[int]] = {"/victim": [], "/steady": []}
    for evt in sub:
        seen[evt.path].append(evt.data)
        if len(seen["/victim"]) == 2_000:
            victim.process.kill()
        if seen["/steady"] and seen["/steady"][-1] == 20_000:
            break
    victim.end()
    lost = list(sub.channel().gaps)
    assert seen["/steady"] == list(range(1, 20_001)), lost
    # What arrived of the dead one is what it sent, in order, nothing torn and nothing twice.
    assert seen["/victim"] == sorted(set(seen["/victim"]))
    zbus.Bus(dir=zbus_dir).close()
    assert all(peer.alive for peer in zbus.peers())
    assert len(roster_files(zbus_dir)) == len(set(roster_files(zbus_dir)))


def test_files_of_the_dead_are_gone_after_the_next_join(spawn: Spawn, zbus_dir: str) -> None:
    for overflow in ("drop", "block"):
        spawn("reader", "stream", overflow).ready().kill()
    spawn("publisher", "p", 1).ready().kill()
    assert roster_files(zbus_dir)
    with zbus.Bus(dir=zbus_dir) as bus:
        bus.subscribe("a").close()
        assert {name.split(".")[-1] for name in roster_files(zbus_dir)} == {"member", "sock", "drop"}
        assert len(roster_files(zbus_dir)) == 3
    assert roster_files(zbus_dir) == []


def test_a_restarted_publisher_is_heard_at_once(spawn: Spawn, bus: zbus.Bus) -> None:
    sub = bus.subscribe("hello")
    for round_ in range(5):
        worker = spawn("publisher", round_, 1).ready()
        assert sub.channel().receive(timeout=30)[0].path == f"/{round_}"
        worker.kill()
    assert sub.lost == 0
