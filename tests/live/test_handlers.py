"""A signal handler may send, subscribe and close, on the default bus too, whatever it interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zbus
from zbus.runtime import housekeeping, threads
from zbus.runtime.lifecycle import open_nodes

from .process import directory, receive

# The timer fires at random moments; its handler takes one of its uses in turn, the program one of its own.
STRESS = """
import faulthandler, itertools, json, random, signal, sys, threading, time
import zbus

seconds, uses, others = float(sys.argv[1]), sys.argv[2].split(), int(sys.argv[3])
faulthandler.dump_traceback_later(seconds + 60, exit=True)  # a deadlock

def subscribe(overflow):
    zbus.subscribe("x", overflow=overflow).close()

def receive():
    with zbus.subscribe("a") as sub:
        zbus.send("a", "b", "/program")
        sub.channel().receive(timeout=10)

USES = {
    "send": lambda: zbus.send("a", "b", "/1"),
    "send_many": lambda: zbus.send_many("a", "b", [("/1", 1), ("/2", 2)]),
    "drop": lambda: subscribe("drop"),
    "block": lambda: subscribe("block"),
    "latest": lambda: subscribe("latest"),
    "receive": receive,
    "close": zbus.close,
}
refused = (zbus.Unavailable, zbus.Canceled)  # said at once; and what a close of another's makes of a use
turn = itertools.cycle(["send", "send_many", "drop", "close", "block", "latest"])
handled, longest, running = 0, 0.0, True

def handler(*_):
    global handled, longest
    start = time.monotonic()
    try:
        USES[next(turn)]()
    except refused:
        pass
    longest = max(longest, time.monotonic() - start)
    handled += 1
    if running:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 3e-3))

def run(until):
    for use in itertools.cycle(uses):
        try:
            USES[use]()
        except refused:
            pass
        if until():
            return

signal.signal(signal.SIGALRM, handler)
threads = [threading.Thread(target=run, args=(lambda: not running,)) for _ in range(others)]
for thread in threads:
    thread.start()
end = time.monotonic() + seconds
signal.setitimer(signal.ITIMER_REAL, 1e-3)
run(lambda: time.monotonic() > end and handled > 20)
running = False
signal.setitimer(signal.ITIMER_REAL, 0)
for thread in threads:
    thread.join()
assert longest < 20, longest
zbus.send("a", "b", "/last")
print(json.dumps({"handled": handled, "longest": longest}))
"""


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize(
    "uses", ["send", "send close", "drop block latest", "receive close send block send_many close"]
)
def test_a_handler_that_uses_the_default_bus_never_hangs(zbus_dir: str, uses: str, others: int) -> None:
    """It interrupts sends, opens, joins and closes of its own thread, while others do the same."""
    command = [sys.executable, "-W", "error", "-c", STRESS, "3", uses, str(others)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.returncode == 0
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Set what SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda call: signal.signal(signal.SIGUSR1, lambda *_: call())  # type: ignore[arg-type, return-value]
    signal.signal(signal.SIGUSR1, before)


Handle = Callable[[Callable[[], object]], None]


def interrupted(call: Callable[..., object]) -> Callable[..., object]:
    """Return `call` with a SIGUSR1 just before it, unless that is what the handler of one does."""
    inside = False

    def wrapper(*arguments: object, **options: object) -> object:
        nonlocal inside
        if not inside:
            inside = True
            signal.raise_signal(signal.SIGUSR1)
            inside = False
        return call(*arguments, **options)

    return wrapper


def test_amid_the_opening_of_the_default_bus(
    zbus_dir: str, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        for call in (
            lambda: zbus.send("a", "b", "/handler"),
            lambda: zbus.send_many("a", "b", [("/handler", None)]),
            lambda: zbus.subscribe("a").close(),
            zbus.close,
        ):
            handle(call)
            monkeypatch.setattr(zbus._default, "_open", interrupted(zbus.Bus))
            zbus.send("a", "b", "/program")
            zbus.close()
        paths = [receive(sub).path for _ in range(6)]
        assert paths == ["/handler", "/program", "/handler", "/program", "/program", "/program"]


def until_gone(bus: zbus.Bus) -> None:
    """Wait until a bus that a helper closes is closed to the end."""
    deadline = time.monotonic() + 10
    while bus._node in open_nodes():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_amid_a_join(bus: zbus.Bus, handle: Handle, monkeypatch: pytest.MonkeyPatch, overflow: str) -> None:
    """It may send and close channels, not join; and when it closes the bus, the join ends well."""
    heard, other = bus.subscribe("a"), zbus.Bus(dir=directory(bus).parents[1])
    first = other.subscribe("x", overflow=overflow)
    monkeypatch.setattr(other._node._roster, "announce", interrupted(other._node._roster.announce))

    def call() -> None:
        other.send("a", "b", "/handler")
        with pytest.raises(zbus.Unavailable, match="a signal handler cannot subscribe") as caught:
            other.subscribe("x")
        assert caught.value.retryable
        first.close()

    handle(call)
    sub = other.subscribe("x", overflow=overflow)
    assert receive(heard).path == "/handler"
    bus.send("x", "b", "/1")
    assert receive(sub).path == "/1"
    handle(other.close)
    last = other.subscribe("x", overflow=overflow)
    assert last.channel().receive(timeout=10) == (None, False)
    until_gone(other)
    assert sub.channel().receive(timeout=10) == (None, False)


def test_amid_a_send(bus: zbus.Bus, handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may join and close; a send is refused at once."""
    other = zbus.Bus(dir=directory(bus).parents[1])
    links = other._node.publisher._links
    monkeypatch.setattr(links, "settle", interrupted(links.settle))
    heard: list[zbus.Subscription] = []

    def call() -> None:
        with pytest.raises(zbus.Unavailable, match="a signal handler cannot send"):
            other.send("a", "b", "/handler")
        if not heard:
            heard.extend(other.subscribe("a", overflow=overflow) for overflow in ("drop", "block", "latest"))

    handle(call)
    other.send("a", "b", "/1")
    assert [receive(sub).path for sub in heard] == ["/1"] * 3
    handle(other.close)
    bus.subscribe("b")  # so that the next send settles
    with pytest.raises(zbus.Canceled):
        other.send("a", "b", "/2")
    until_gone(other)


def test_amid_a_close(bus: zbus.Bus, handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    other = zbus.Bus(dir=directory(bus).parents[1])
    other.send("a", "b", "/1")
    monkeypatch.setattr(other._node._roster, "close", interrupted(other._node._roster.close))
    seen = []

    def call() -> None:
        other.close()
        for use in (lambda: other.send("a", "b", "/1"), lambda: other.subscribe("a")):
            with pytest.raises((zbus.Canceled, zbus.Unavailable)):
                use()
        bus.send("a", "b", "/1")
        seen.append(other.closed)

    handle(call)
    other.close()
    assert seen == [True]
    until_gone(other)


def test_a_count_amid_a_count_is_not_forgotten(bus: zbus.Bus, handle: Handle) -> None:
    """Not even by another thread, which does not wait for it either."""
    member = bus._node._member
    count, numbers = member._count, []

    def slow(counter: str, number: int) -> None:
        if not numbers:
            numbers.append(number)
            signal.raise_signal(signal.SIGUSR1)
            assert threads.start("zbus-test", member.add, "lost", 100).join(10)
        count(counter, number)

    member._count = slow  # type: ignore[method-assign]
    handle(lambda: member.add("lost", 10))
    member.add("lost", 1)
    [peer] = zbus.peers(dir=directory(bus).parents[1])
    assert peer.counters["lost"] == 111


def test_a_use_that_calls_for_housekeeping_does_not_wait_for_another_that_does(zbus_dir: str) -> None:
    """A handler may have interrupted that one, and wait for this."""
    held, go = threads.Event(), threads.Event()

    def hold() -> None:
        with housekeeping._housekeeper._lock:
            held.set()
            go.wait()

    holder = threads.start("zbus-test", hold)
    assert held.wait(10)
    with zbus.Bus(dir=zbus_dir) as bus:
        user = threads.start("zbus-test", bus.send, "a", "b", "/1")
        assert user.join(10)
        go.set()
        assert holder.join(10)
        bus.subscribe("a")
        assert "zbus-housekeeping" in {thread.name for thread in threads.running()}


ASYNCIO = """
import asyncio, faulthandler, itertools, random, signal, sys, zbus
from contextlib import suppress
faulthandler.dump_traceback_later(40, exit=True)
turn = itertools.cycle(["send", "close", "subscribe", "send"])
handled = 0

def use(*_):
    global handled
    handled += 1
    what = next(turn)
    try:
        if what == "send":
            zbus.send("a", "b", "/1")
        elif what == "close":
            zbus.close()
        else:
            zbus.subscribe("x").close()
    except (zbus.Unavailable, zbus.Canceled):
        pass
    if running:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 3e-3))

async def main():
    global running
    if sys.argv[1] == "loop":
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, use)
    else:
        signal.signal(signal.SIGALRM, use)
    running = True
    signal.setitimer(signal.ITIMER_REAL, 1e-3)
    end = asyncio.get_running_loop().time() + 3
    while asyncio.get_running_loop().time() < end:
        async with zbus.aio.Bus() as bus, await bus.subscribe("y") as sub:
            with suppress(zbus.Canceled):  # closed by the handler, just now
                zbus.send("a", "b", "/2")
            for number in range(20):
                await bus.send("y", "b", "/1", number)
                assert (await sub.channel().receive(timeout=10))[0].data == number
    running = False
    signal.setitimer(signal.ITIMER_REAL, 0)

asyncio.run(main())
zbus.close()
assert handled > 20, handled
"""


@pytest.mark.parametrize("how", ["loop", "signal"])
def test_on_an_event_loop(zbus_dir: str, how: str) -> None:
    """By `loop.add_signal_handler`, or by `signal.signal` amid any step of the loop."""
    command = [sys.executable, "-W", "error", "-c", ASYNCIO, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.returncode == 0
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]
