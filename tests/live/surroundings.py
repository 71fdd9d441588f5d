"""A process that uses a bus in odd surroundings: `python -m tests.live.surroundings WHAT ROOT`.

It prints one JSON object: how each use went, and what this process was left with.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zbus
from zbus.runtime.threads import running

FREE_USER = 54_321
"""Nobody has this id, nor one of the next."""

_SECONDS = 20.0
Dir = Any

outcomes: dict[str, str] = {}
"""By use: empty if it went well, else the error, which says `foreign` if it is none of zbus."""


def attempt(use: str, call: Callable[[], Any]) -> Any:
    """Call something and note how it went."""
    outcomes[use] = ""
    try:
        return call()
    except zbus.Error as error:
        outcomes[use] = f"{type(error).__name__}: {error}"
        str(error).encode()
    except TypeError as error:
        outcomes[use] = f"TypeError: {error}"
    except BaseException as error:
        outcomes[use] = f"foreign {error!r}"
    return None


def use(dir: Dir, bus: zbus.Bus | None = None) -> None:
    """Do all that can be done with a bus, one after the other, whatever fails."""
    bus = bus or attempt("open", lambda: zbus.Bus(dir=dir))
    if bus is None:
        return
    attempt("first send", lambda: bus.send("orders", "created", "/0"))
    subs = {}
    for overflow in ("drop", "block", "latest"):
        subs[overflow] = attempt(overflow, lambda: bus.subscribe("orders", overflow=overflow, capacity=10))  # noqa: B023
    attempt("send", lambda: bus.send("orders", "created", "/1", 1))
    attempt("send_many", lambda: bus.send_many("orders", "created", [("/1", 1), ("/2", 2)]))
    for overflow, sub in subs.items():
        if sub is not None:
            attempt(f"receive {overflow}", lambda: sub.channel().receive(timeout=_SECONDS))  # noqa: B023
    attempt("flush", lambda: bus.flush(_SECONDS))
    attempt("peers", lambda: json.dumps(zbus.peers(dir=dir)).encode())
    attempt("repr", lambda: repr(bus).encode())
    attempt("close", bus.close)


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the listing's own
            continue
    return found


def tasks() -> int:
    """Return how many threads the kernel knows of, libzmq's too."""
    return len(os.listdir("/proc/self/task"))


# What the program is called.


def argv(value: object) -> Callable[[str], None]:
    def change(root: str) -> None:
        sys.argv = value  # type: ignore[assignment]
        use(root)

    return change


class Lying(str):
    __slots__ = ()

    def __bool__(self) -> bool:
        raise ValueError("nobody asks me")


def no_argv(root: str) -> None:
    del sys.argv
    sys.executable = None  # type: ignore[assignment]
    use(root)


# Where the bus is.


class Odd:
    def __init__(self, path: object) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path


def at(make: Callable[[str], Dir]) -> Callable[[str], None]:
    return lambda root: use(make(root))


def below_a_file(root: str) -> None:
    Path(root, "file").touch()
    use(f"{root}/file/bus")
    os.unlink(f"{root}/file")


def in_a_loop(root: str) -> None:
    os.symlink(f"{root}/b", f"{root}/a")
    os.symlink(f"{root}/a", f"{root}/b")
    use(f"{root}/a/bus")
    os.unlink(f"{root}/a")
    os.unlink(f"{root}/b")


def relative(root: str) -> None:
    os.chdir(root)
    use("bus")


def relative_and_moved(root: str) -> None:
    os.chdir(root)
    bus = zbus.Bus(dir="bus")
    os.chdir("/")
    use(f"{root}/bus", bus)


def from_nowhere(dir: Dir) -> Callable[[str], None]:
    def run(root: str) -> None:
        os.mkdir(f"{root}/gone")
        os.chdir(f"{root}/gone")
        os.rmdir(f"{root}/gone")
        use(dir or root)

    return run


def environment(**values: str) -> Callable[[str], None]:
    def run(root: str) -> None:
        for name in ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR"):
            os.environ.pop(name, None)
        os.chdir(root)
        os.environ.update({name: value.format(root=root) for name, value in values.items()})
        use(None)

    return run


# What there is of streams.


def without(*numbers: int) -> Callable[[str], None]:
    def run(root: str) -> None:
        for number in numbers:
            os.close(number)
        use(root)

    return run


def without_streams(root: str) -> None:
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    use(root)


# What the process may take.


def limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


def at_most(name: str, value: int) -> Callable[[str], None]:
    def run(root: str) -> None:
        limit(getattr(resource, name), value)
        use(root)

    return run


def few_descriptors(left: int) -> Callable[[str], None]:
    """Leave so many below the limit, for a bus that is open."""

    def run(root: str) -> None:
        limit(resource.RLIMIT_NOFILE, 256)
        bus = zbus.Bus(dir=root)
        held = []
        with suppress(OSError):
            while True:
                held.append(os.dup(1))
        for number in held[:left]:
            os.close(number)
        use(root, bus)
        for number in held[left:]:
            os.close(number)

    return run


def little_memory(name: str, mib: int) -> Callable[[str], None]:
    """Leave so many MiB to a process that opens a bus then."""

    def run(root: str) -> None:
        field = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}[name]
        status = Path("/proc/self/status").read_text().splitlines()
        [used] = [line.split()[1] for line in status if line.startswith(field)]
        soft = int(used) * 1024 + mib * 2**20
        hard = resource.getrlimit(getattr(resource, name))[1]
        resource.setrlimit(getattr(resource, name), (soft, hard))
        use(root)
        resource.setrlimit(getattr(resource, name), (hard, hard))

    return run


def few_threads(left: int) -> Callable[[str], None]:
    """Leave so many to a user who runs nothing else."""

    def run(root: str) -> None:
        os.chown(root, FREE_USER + left, -1)
        os.setuid(FREE_USER + left)
        limit(resource.RLIMIT_NPROC, 1 + left)
        use(root)

    return run


# What changes while a bus is open.


def another_user(root: str) -> None:
    bus = zbus.Bus(dir=root)
    bus.subscribe("prices")
    bus.send("prices", "changed", "/1")
    os.seteuid(FREE_USER)
    use(root, bus)
    os.seteuid(0)
    bus.close()
    zbus.Bus(dir=root).close()  # the next to come cleans up what this user could not


def another_root(root: str) -> None:
    os.mkdir(f"{root}/c")
    bus = zbus.Bus(dir=f"{root}/bus")
    sub = bus.subscribe("prices")
    bus.send("prices", "changed", "/1")
    here = os.open("/", os.O_RDONLY)
    os.chroot(f"{root}/c")
    os.chdir("/")
    use(f"{root}/bus", bus)
    sub.close()
    os.fchdir(here)
    os.chroot(".")
    os.close(here)
    zbus.Bus(dir=f"{root}/bus").close()
    shutil.rmtree(f"{root}/c")


SURROUNDINGS: dict[str, Callable[[str], None]] = {
    "a script that is not UTF-8": argv(["/bin/caf\udce9.py"]),
    "a script with half a character": argv(["/bin/\ud800.py"]),
    "a script named by bytes": argv([b"/bin/caf\xe9.py"]),
    "a script named by a path": argv([Path("/bin/cafe.py")]),
    "a script named by no text": argv([42]),
    "a script named by odd text": argv([Lying("/bin/cafe.py")]),
    "a script with a long name": argv(["x" * 100_000]),
    "no arguments": argv([]),
    "arguments that are none": argv(None),
    "no argv at all": no_argv,
    "a directory that is not UTF-8": at(lambda root: os.fsdecode(os.fsencode(root) + b"/caf\xe9")),
    "a directory with odd characters": at(lambda root: f"{root}/a\n%s{{b}}*; "),
    "bytes": at(os.fsencode),
    "a path of bytes": at(lambda root: Odd(os.fsencode(root))),
    "a path of a number": at(lambda _: Odd(42)),
    "a number": at(lambda _: 42),
    "NUL": at(lambda root: f"{root}/a\0b"),
    "half a character": at(lambda root: f"{root}/a\ud800b"),
    "no text": at(lambda _: ""),
    "5,000 characters": at(lambda root: root + "/x" * 2500),
    "below a file": below_a_file,
    "a loop of links": in_a_loop,
    "a device": at(lambda _: "/dev/null"),
    "what the kernel does not make": at(lambda _: "/proc/zbus"),
    "a relative directory": relative,
    "a relative directory left meanwhile": relative_and_moved,
    "a relative directory in one that is gone": from_nowhere("bus"),
    "an absolute directory from one that is gone": from_nowhere(""),
    "ZBUS_DIR relative": environment(ZBUS_DIR="bus"),
    "ZBUS_DIR not UTF-8": environment(ZBUS_DIR="{root}/caf\udce9"),
    "ZBUS_DIR empty": environment(ZBUS_DIR="", XDG_RUNTIME_DIR="", TMPDIR="{root}"),
    "ZBUS_BUS not UTF-8": environment(ZBUS_DIR="{root}", ZBUS_BUS="caf\udce9"),
    "XDG_RUNTIME_DIR not there yet": environment(XDG_RUNTIME_DIR="{root}/no/such"),
    "TMPDIR that cannot be": environment(TMPDIR="/proc/none"),
    "no standard output": without(0, 1),
    "no standard error": without(2),
    "no standard streams for Python": without_streams,
}
AS_ROOT: dict[str, Callable[[str], None]] = {
    **{f"{n} threads left": few_threads(n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 12)},
    "another user since": another_user,
    "another root since": another_root,
}
LIMITS: dict[str, Callable[[str], None]] = {
    **{f"files of {n} bytes": at_most("RLIMIT_FSIZE", n) for n in (0, 4, 8, 50, 150)},
    **{f"a limit of {n} descriptors": at_most("RLIMIT_NOFILE", n) for n in (5, *range(8, 18))},
    **{f"{n} descriptors left": few_descriptors(n) for n in (0, 1, 2, 3, 4, 5, 6, 8, 12, 24)},
    **{f"{n} MiB left": little_memory("RLIMIT_AS", n) for n in (0, 8, 24, 40)},
    **{f"{n} MiB of data left": little_memory("RLIMIT_DATA", n) for n in (8, 24)},
}
ENOUGH: dict[str, Callable[[str], None]] = {
    "files of 4 KiB": at_most("RLIMIT_FSIZE", 4096),
    "a limit of 256 descriptors": at_most("RLIMIT_NOFILE", 256),
    "128 descriptors left": few_descriptors(128),
    "2 GiB left": little_memory("RLIMIT_AS", 2048),
    "1 GiB of data left": little_memory("RLIMIT_DATA", 1024),
}


def main(what: str, root: str) -> None:
    out = os.dup(1)  # before anything is odd
    sys.unraisablehook = lambda it: outcomes.update({f"unraisable {it.object}": f"foreign {it.exc_value!r}"})
    os.makedirs(root, 0o700, exist_ok=True)
    before = tasks(), descriptors()
    {**SURROUNDINGS, **AS_ROOT, **LIMITS, **ENOUGH}[what](root)
    gc.collect()
    deadline = time.monotonic() + _SECONDS
    left: list[str] = []
    while time.monotonic() < deadline:  # libzmq closes its descriptors a moment later
        left = [str(thread) for thread in running()] + sorted(descriptors() - before[1])
        left += ["threads"] if tasks() > before[0] else []
        if not left:
            break
        time.sleep(0.01)
    left += [name for name in map(str, threading.enumerate()) if "MainThread" not in name]
    report = {"outcomes": outcomes, "left": left}
    os.write(out, json.dumps(report).encode(errors="replace"))


if __name__ == "__main__":
    main(*sys.argv[1:])
