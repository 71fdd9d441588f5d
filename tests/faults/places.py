"""Fault 14: which directory a bus is in, who cleans or removes it, and what else lies in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zbus
from tests.live.process import Worker, receive

from .directory import litter
from .files import Cast, ask
from .foreign import touch
from .harness import Row, Stage, files, until
from .kills import start
from .meeting import full_temporary_directory, in_a_mount, meeting_place

__all__ = ["placed"]

_NOTICED_SECONDS = 3.0
_DEAD = "00000000deadbeef"
_OFFSET = 100_000


def placed(stage: Stage) -> Iterator[Row]:
    yield meeting_place(stage.apart())
    yield full_temporary_directory(stage.apart())
    for what, damage in _REMOVALS.items():
        yield _removed(stage.apart(), what, damage)
    yield _token_removed(stage.apart())
    yield _temporary_files_cleaned(stage.apart())
    for offset in (_OFFSET, -_OFFSET):
        yield _time_namespace(stage.apart(), offset)
    yield _not_removable(stage.apart())
    yield _btrfs(stage.apart())
    yield _foreign(stage.apart())
    yield _dead(stage.apart())
    yield _crowded(stage.apart())
    yield _giant(stage.apart())


# -- removed, and made anew


def _remade(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir(mode=0o700)


_REMOVALS: dict[str, Callable[[Path], object]] = {
    "removed": shutil.rmtree,
    "removed and created again": _remade,
    "renamed": lambda path: path.rename(path.with_name("elsewhere")),
}


def _removed(stage: Stage, what: str, damage: Callable[[Path], object]) -> Row:
    row = stage.row(f"the directory of a running bus {what}")
    cast = Cast(stage)
    damage(stage.path)
    late = stage.spawn("resident").ready()
    joined = time.monotonic()
    number = start(cast.load, "late")
    until(lambda: ask(late, "count")["last"] >= number, 30, "the newcomer hears the old publisher")
    row.at_most("a newcomer hears the old after", time.monotonic() - joined, _NOTICED_SECONDS, "s")
    # Everybody: the joiner has not used the bus.
    until(lambda: len([name for name in files(stage.path) if name.endswith(".member")]) == 4, 30, "members")
    row.at_most("all are in the new directory after", time.monotonic() - joined, _NOTICED_SECONDS, "s")
    row.equal("an old member joins", ask(cast.resident, "join")["error"], "")
    row.claim("an old member hears no more", cast.hears_on())
    row.end(late)
    report = cast.end(row)
    row.equal("an old one lost", (report["lost"], report["runs"]), (0, [[1, report["last"]]]))
    row.lost += " between old members"
    row.done = "then a new process joins"
    return row


def _token_removed(stage: Stage) -> Row:
    row = stage.row("the token of a running bus removed: the next process to join")
    cast = Cast(stage)
    (stage.path / "token").unlink()
    began = time.monotonic()
    late = stage.spawn("resident").ready()
    row.at_most("it waits for the others to notice", time.monotonic() - began, _NOTICED_SECONDS, "s")
    number = start(cast.load, "late")
    until(lambda: ask(late, "count")["last"] > number, 30, "it hears the old publisher")
    found = ask(late, "count")
    row.claim(f"the newcomer misses {number}: {found['runs']}", found["runs"][0][0] <= number)
    row.equal("the newcomer lost", found["lost"], 0)
    row.end(late)
    report = cast.end(row)
    row.equal("an old one lost", (report["lost"], report["runs"]), (0, [[1, report["last"]]]))
    row.done = "a new process joins, and gets the first event sent after that"
    return row


# -- cleaned by others


def _temporary_files_cleaned(stage: Stage) -> Row:
    row = stage.row("`systemd-tmpfiles --clean`, everything counts as old")
    if shutil.which("systemd-tmpfiles") is None:
        return row.skip("systemd-tmpfiles is not installed: apt-get install systemd")
    rounds = stage.size(20, 2)
    cast = Cast(stage)
    before = {name: (stage.path / name).stat().st_ino for name in os.listdir(stage.path)}
    (stage.scratch / "zbus.conf").write_text(f"d {stage.dir} - - - 0\n")
    for _ in range(rounds):
        old = Path(stage.dir, "old")
        old.touch()
        subprocess.run(["systemd-tmpfiles", "--clean", stage.scratch / "zbus.conf"], check=True)
        row.equal("what nobody uses is removed", old.exists(), False)
        row.equal("files", {name: (stage.path / name).stat().st_ino for name in before}, before)
    row.equal("a new process joins", ask(cast.joiner, "join")["error"], "")
    row.claim("it hears no more", cast.hears_on())
    cast.end(row)
    row.done = f"{rounds} times on a running bus"
    return row


# -- another time namespace


def _time_namespace(stage: Stage, offset: int) -> Row:
    row = stage.row(f"a publisher whose time namespace is {'ahead' if offset > 0 else 'behind'}")
    offset = max(offset, 1 - int(time.monotonic()))  # no clock may be set to before the boot
    within = ("unshare", "--time", "--map-root-user", "--monotonic", str(offset))
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        return row.skip("a time namespace of one's own is not allowed here")
    count = stage.size(20_000, 2_000)
    bus = stage.bus()
    sender = Worker("sender", within=within, env={"ZBUS_DIR": stage.dir}).ready()

    def send(system: str, number: int) -> None:
        sender.tell(f"{system} {number}")
        sender.hear()

    try:
        send("early", count)
        early = bus.subscribe("early")
        full, passed = bus.subscribe("*", capacity=10), bus.subscribe("last")
        send("filler", count)
        send("new", count)
        send("last", 1)
        receive(passed)  # all before it has come by
        kept = [receive(full).system for _ in range(10)]
        for system in ("filler", "new", "early"):
            send(system, 1)
        row.equal("got", kept + [receive(full).system for _ in range(2)], ["filler"] * 11 + ["new"])
        row.equal("lost of what a full queue dropped", full.lost, 2 * count - 10)
        row.equal("number of the first after the join", receive(early).seq, count + 1)
        row.equal("lost before the join", early.lost, 0)
    finally:
        row.end(sender)
    row.done = f"{abs(offset):,} s; {count:,} events before a join, {2 * count:,} to a queue of 10"
    row.lost = f"{full.lost:,} of {2 * count + 2:,}, each counted; 0 of before the join"
    return row


# -- what cannot be removed or written

_READ_ONLY = """
import os, socket, subprocess, time, zbus
with zbus.Bus() as bus:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1")
    path = os.environ["ZBUS_DIR"] + "/v1/default"
    for index in range(8):
        ident = f"0000000{index}deadbeef"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{path}/{ident}.sock")
            stale.listen()
        os.close(os.open(f"{path}/{ident}.1." + ("drop", "block")[index % 2], os.O_CREAT))
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
    start, cpu = time.monotonic(), time.process_time()
    for number in range(200):
        bus._node._roster.touch()  # through a descriptor from before
        bus.send("a", "b", "/1", timeout=1)
    took = time.monotonic() - start
    assert [sub.channel().receive(timeout=5)[1] for _ in range(201)] == [True] * 201
    assert sub.lost == 0
    subprocess.run(["umount", path], check=True)
print(f"{took / 200 * 1000:.3g} {(time.process_time() - cpu) / 200 * 1000:.3g}")
"""


def _not_removable(stage: Stage) -> Row:
    row = stage.row("dead subscribers whose files cannot be removed, the directory is read-only")
    if not in_a_mount("pass", stage)[0]:
        return row.skip("a mount namespace of one's own is not allowed here")
    worked, said = in_a_mount(_READ_ONLY, stage)
    row.claim(said, worked)
    if worked:
        took, cpu = map(float, said.split())
        row.at_most("a send that looks at them", took, 20, "ms")
        row.at_most("of CPU", cpu, 20, "ms")
    row.done, row.lost = "8 of them, half `block`; 200 sends, each after a change of the token", "0 of 201"
    return row


_BTRFS = """
import os, subprocess, zbus
image, root = os.environ["SCRATCH"] + "/image", os.environ["SCRATCH"] + "/mount"
with open(image, "wb") as file:
    file.truncate(120 << 20)
os.mkdir(root)
subprocess.run(["mkfs.btrfs", "-q", "-f", "-M", image], check=True, capture_output=True)
subprocess.run(["mount", "-o", "loop", image, root], check=True)
os.chmod(root, 0o700)
with zbus.Bus(dir=root) as bus:
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1")
    filler = os.open(root + "/filler", os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(filler, os.urandom(size))
        except OSError:
            pass
    try:
        os.fsync(filler)
    except OSError:
        pass
    os.close(filler)
    errors = set()
    for overflow in ("drop", "block"):
        try:
            bus.subscribe("b", overflow=overflow)
        except zbus.Unavailable as error:
            errors.add(error.retryable)
    assert errors == {True}, errors
    try:
        bus._node._roster.touch()
    except zbus.Unavailable as error:
        print("the token cannot be written:", error.message.rpartition("token: ")[2])
    bus.send("a", "b", "/2")
    assert [sub.channel().receive(timeout=5)[0].path for _ in range(2)] == ["/1", "/2"]
assert os.listdir(root + "/v1/default") == ["token"], os.listdir(root + "/v1/default")
subprocess.run(["umount", root], check=True)
"""


def _btrfs(stage: Stage) -> Row:
    row = stage.row("a full btrfs, which copies on write")
    if os.geteuid() or shutil.which("mkfs.btrfs") is None:
        return row.skip("it takes root and mkfs.btrfs (apt-get install btrfs-progs)")
    within = ("unshare", "--mount")
    if not in_a_mount("import os; os.stat('/dev/loop-control')", stage, within)[0]:
        return row.skip("there are no loop devices here")
    worked, said = in_a_mount(_BTRFS, stage, within)
    row.claim(said, worked)
    row.show(said.strip())
    row.done, row.lost = "a member joins twice, sends, and closes", "0 of 2; the joins are refused"
    return row


# -- what else lies there


def _foreign(stage: Stage) -> Row:
    row = stage.row("FIFOs, directories and links with zbus's file names; files with similar names")
    stage.join()
    named = [f"{_DEAD}.member", f"{_DEAD}.sock", f"{_DEAD}.new", f"{_DEAD}.1.drop", f"{_DEAD}.2.block"]
    like = ["notes.member", "token.sock", "x.sock", f"{_DEAD}.01.drop", f"{_DEAD.upper()}.1.drop"]
    target = stage.scratch / "target"
    target.write_bytes(b"mine")
    makes: list[tuple[Callable[[Path], object], list[str]]] = [
        (os.mkfifo, named),
        (os.mkdir, named),
        (lambda path: path.symlink_to(target), named),
        (lambda path: path.write_bytes(b"mine"), like),
    ]
    began = time.monotonic()
    for make, names in makes:
        for name in names:
            make(stage.path / name)
            os.utime(stage.path / name, (0, 0), follow_symlinks=False)
        _use(stage, row)
        row.equal("files", files(stage.path), sorted(names))
        for name in names:
            place = stage.path / name
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    row.equal("what a link leads to", target.read_bytes(), b"mine")
    row.at_most("four times: open, subscribe, send, list who is there", time.monotonic() - began, 10, "s")
    row.done, row.lost = "all are left alone", "nothing"
    return row


def _use(stage: Stage, row: Row) -> None:
    with zbus.Bus(dir=stage.dir) as bus:
        subs = [bus.subscribe("a", overflow=overflow) for overflow in ("drop", "block")]
        bus.send("a", "b", "/1", timeout=5)
        row.equal("got", [receive(sub).path for sub in subs], ["/1", "/1"])
        row.equal("alive", sum(peer.alive for peer in stage.peers()), 3)


def _took(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _dead(stage: Stage) -> Row:
    count = stage.size(2000, 300)
    row = stage.row(f"{count:,} dead entries, sockets and member files")
    with zbus.Bus(dir=stage.dir) as bus:
        sub = bus.subscribe("a")
        litter(stage.path, count, stage.random)
        touch(stage.path)
        row.at_most("a send takes", _took(lambda: bus.send("a", "b", "/1", timeout=5)) * 1000, 250, "ms")
        row.equal("got", receive(sub).path, "/1")
        # By the member that is there: a publisher cleans up what is listed.
        until(
            lambda: sum(name.endswith((".drop", ".block")) for name in files(stage.path)) == 1, 60, "entries"
        )
        litter(stage.path, count, stage.random)
        row.at_most("to open a bus takes", _took(lambda: zbus.Bus(dir=stage.dir).close()) * 1000, 250, "ms")
        joins = 1
        while len(files(stage.path)) > 3 and joins < 100:
            zbus.Bus(dir=stage.dir).close()
            joins += 1
        row.equal(
            "kinds of files", {name.split(".")[-1] for name in files(stage.path)}, {"drop", "member", "sock"}
        )
        row.show(f"all is clean after {joins} joins")
    row.done, row.lost = "met by a publisher, then by newcomers", "nothing"
    return row


def _crowded(stage: Stage) -> Row:
    count = stage.size(100_000, 5_000)
    row = stage.row(f"{count:,} foreign names in the directory")
    stage.join()
    for index in range(count):
        (stage.path / f"foreign-{index}").touch()
    with zbus.Bus(dir=stage.dir) as bus:
        row.at_most("subscribe takes", _took(lambda: bus.subscribe("a").close()) * 1000, 100, "ms")
        row.at_most("the first send takes", _took(lambda: bus.send("a", "b", "/1")) * 1000, 300, "ms")
        row.at_most("a second subscribe", _took(lambda: bus.subscribe("a").close()) * 1000, 100, "ms")
    row.done, row.lost = "a process joins and sends", "nothing"
    return row


def _giant(stage: Stage) -> Row:
    row = stage.row("a member file of 1 GiB, sparse")
    stage.join()
    with open(stage.path / f"{_DEAD}.member", "wb") as file:
        file.truncate(2**30)
    # Not `ru_maxrss`: a program begins with that of whoever started it.
    program = (
        "import zbus; print(len(zbus.peers()), *"
        "(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    began = time.monotonic()
    worked, said = in_a_mount(program, stage, ())
    row.claim(said, worked)
    row.at_most("`zbus.peers()`, start of Python included, takes", time.monotonic() - began, 5, "s")
    row.at_most("memory", int(said.split()[1]) / 1024, 200, "MiB", speed=False)
    row.done, row.lost = "look who is there", "nothing"
    return row
