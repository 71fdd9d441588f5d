"""What zbus logs: all of it while no lock is held, in order, by handlers that may use the bus.

`tests/unit/test_reported.py` lists all of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

import zbus
from zbus.links.nats import Link
from zbus.node.default_bus import DefaultBus
from zbus.runtime import housekeeping
from zbus.runtime.locks import any_held
from zbus.testing import Faults

from .process import directory, receive
from .quiet import fill
from .silent import Silent
from .test_foreign import Foreign

LIMIT = 60.0


class Sends(logging.Handler):
    """A handler as users write them: it sends what it is given on the bus that has something to say."""

    def __init__(self, bus: zbus.Bus) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.problems: list[object] = []
        self._bus = bus

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "zbus":
            return
        if any_held():
            self.problems.append(f"a lock is held: {record.getMessage()}")
        try:
            self._bus.send("logs", record.levelname.lower(), record.name, record.getMessage())
            self._bus.subscribe("nothing").close()
        except zbus.Error as error:
            self.problems.append(error)
        self.messages.append(record.getMessage())

    def wait(self, *starts: str) -> None:
        """Wait until there are messages that start so, one each, and nothing went wrong."""
        deadline = time.monotonic() + LIMIT
        while not all(any(said.startswith(start) for said in self.messages) for start in starts):
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.005)
        assert self.problems == []


@pytest.fixture
def root() -> Iterator[Callable[[zbus.Bus], Sends]]:
    """Have all that is logged sent."""
    before = logging.getLogger().handlers[:]

    def add(bus: zbus.Bus) -> Sends:
        handler = Sends(bus)
        logging.getLogger().addHandler(handler)
        return handler

    yield add
    logging.getLogger().handlers[:] = before


Root = Callable[[zbus.Bus], Sends]


def test_a_joiner_that_is_given_up(zbus_dir: str, silent: Silent, root: Root) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=0.2) as bus:
        said, logs = root(bus), bus.subscribe("logs")
        ident = silent.add()
        bus.send("a", "b", "/1")
        assert said.messages  # now, not by housekeeping
        said.wait(f"subscriber {ident} (")
        assert " did not finish joining within " in said.messages[0]
        assert receive(logs).data == said.messages[0]
        silent.leave()


def test_a_joiner_that_is_given_up_by_an_asyncio_bus(zbus_dir: str, silent: Silent, root: Root) -> None:
    async def main() -> None:
        async with zbus.aio.Bus(dir=zbus_dir, join_timeout=0.2) as bus:
            await bus.send("a", "b", "/1")

    with zbus.Bus(dir=zbus_dir, join_timeout=0.2) as other:
        said = root(other)
        ident = silent.add()
        asyncio.run(main())
        said.wait(f"subscriber {ident} ")
        silent.leave()


def test_a_subscriber_that_is_let_go(bus: zbus.Bus, zbus_faults: Faults, root: Root) -> None:
    """Its queue has taken all the bytes that it may."""
    with zbus.Bus(dir=directory(bus).parents[1], capacity_bytes=1 << 20) as publisher:
        said = root(publisher)
        process = zbus_faults.subscriber("a")
        publisher.send("a", "b", "/1")
        process.stop()
        for _ in range(1000):
            publisher.send("a", "b", "/1", bytes(1 << 18))
            if said.messages:
                break
        said.wait("subscriber ")
        assert "takes nothing" in said.messages[0]


def test_files_that_are_created_again(bus: zbus.Bus, root: Root) -> None:
    said, sub = root(bus), bus.subscribe("logs", overflow="block")
    missing = f"files of this process were missing from {directory(bus)}: it has created them again"
    with bus._node._lock:  # nobody may create any of it meanwhile
        shutil.rmtree(directory(bus))
    bus.subscribe("a").close()  # at a join
    said.wait(missing)
    said.messages.clear()
    with bus._node._lock:
        shutil.rmtree(directory(bus))
        os.mkdir(directory(bus), 0o700)
    said.wait(missing)  # by housekeeping
    assert receive(sub).data == missing


def test_files_that_cannot_be_created_again(
    bus: zbus.Bus, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise zbus.Unavailable("cannot write it: no space left on device")

    bus.send("a", "b", "/1")  # from now on it looks after itself
    with zbus.Bus("other") as other:
        said = root(other)
        with monkeypatch.context() as patch:
            patch.setattr(bus._node._member, "restore", refuse)
            bus._node._member._path.unlink()
            said.wait("files of this process are missing, and it cannot create them again: cannot write it:")
        said.wait("files of this process were missing from")
        assert len(said.messages) == 2, said.messages


def test_a_full_block_channel_whose_socket_is_gone(bus: zbus.Bus, root: Root) -> None:
    """It is reported once, not each second, and again when that has changed."""
    said = root(bus)
    sub = bus.subscribe("a", overflow="block", capacity=2)
    fill(lambda number: bus.send("a", "b", "/1", number, timeout=0.1))
    for path in directory(bus).glob("*.sock"):
        path.unlink()
    said.wait("files of this process were missing from")
    assert said.messages[0].endswith("but for 1 full 'block' channels: theirs follow once there is room")
    while len(said.messages) < 2:
        with suppress(zbus.Timeout):
            receive(sub, timeout=0.2)
    assert said.messages[1].endswith("it has created them again")
    sub.close()


def test_a_task_that_fails(bus: zbus.Bus, root: Root) -> None:
    def look_for_trouble() -> None:
        raise ZeroDivisionError

    said = root(bus)
    housekeeping.register(look_for_trouble)
    said.wait(f"{look_for_trouble.__qualname__} raised an error; it is called again in a second")
    housekeeping.unregister(look_for_trouble)


def test_the_default_bus_that_is_not_where_the_environment_says(
    bus: zbus.Bus, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = root(bus)
    with monkeypatch.context() as patch:
        patch.delenv("ZBUS_DIR")
        patch.setenv("XDG_RUNTIME_DIR", str(runtime := directory(bus) / "runtime"))
        patch.setenv("TMPDIR", str(directory(bus)))
        patch.setattr("zbus.roster.location._other_owner", lambda _: 12345)
        default = DefaultBus(zbus.Bus)
        default.get().close()
    said.wait(f"XDG_RUNTIME_DIR={runtime} belongs to user 12345, and this process is of user")
    shutil.rmtree(directory(bus) / f"zbus-{os.geteuid()}")


def test_what_a_channel_has_to_say(
    bus: zbus.Bus, zbus_dir: str, zbus_faults: Faults, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("zbus.receiving.channel_base._LOG_INTERVAL", 0.0)
    said = root(bus)
    sub = bus.subscribe("a", "b", type=int, on_gap=fail, on_error=fail)
    bus.send("a", "b", "/1", 1)
    origin = receive(sub).origin
    zbus_faults.drop("a")
    bus.send("a", "b", "/1", 2)
    bus.send("a", "b", "/3", "three")
    foreign = Foreign(zbus_dir)
    try:
        foreign.socket.send(b"a\0b\0/1\0wrong\0")
        deadline = time.monotonic() + LIMIT
        while len(said.messages) < 5 and time.monotonic() < deadline:
            with pytest.raises(zbus.Timeout):
                sub.channel().receive(timeout=0.1)
    finally:
        foreign.close()
    reason = sub.channel()._decoder.malformed_reason
    # In which order is not promised: both may be there at one look.
    said.messages.remove(f"channel a b: skipped 1 malformed frames, the latest: {reason}")
    assert said.messages == [
        f"channel a b: lost 1 events: a b, 2 to 2 of {origin}",
        "on_gap of channel a b raised an error",
        "channel a b: skipped an event, a b /3, of another type: Expected `int`, got `str`",
        "on_error of channel a b raised an error",
    ]
    assert said.problems == []


def test_a_rate_limit_tells_how_many_it_held_back(
    bus: zbus.Bus, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, sub = root(bus), bus.subscribe("a", type=int)
    bus.send_many("a", "b", [("/1", "x")] * 3)
    bus.send("a", "b", "/2", 2)
    assert receive(sub).data == 2
    monkeypatch.setattr("zbus.receiving.channel_base._LOG_INTERVAL", 0.0)
    bus.send("a", "b", "/3", "x")
    bus.send("a", "b", "/4", 4)
    assert receive(sub).data == 4
    assert len(said.messages) == 2
    assert said.messages[1].endswith("; 2 warnings since the one before were not logged")


def test_a_late_event_that_cannot_be_sent(bus: zbus.Bus, zbus_faults: Faults, root: Root) -> None:
    with zbus.Bus("other", dir=directory(bus).parents[1]) as other:
        said = root(other)
        zbus_faults.delay(3600)
        bus.send("a", "b", "/1", b"x")
        bus._node._refuse()
        zbus_faults._hurry.set()  # the time has come
        said.wait("an event that `delay` held back could not be sent")


def test_a_policy_may_log_too(zbus_dir: str, root: Root) -> None:
    """It is asked while no lock is held; only of itself it cannot be asked."""
    log, seen = logging.getLogger("zbus"), []

    def policy(action: str, resource: str) -> bool:
        log.warning("asked %s", resource)
        seen.append(any_held())
        return resource != "secret"

    with zbus.Bus(dir=zbus_dir) as other, zbus.Bus(dir=zbus_dir, policy=policy) as bus:
        said, logs = root(other), other.subscribe("logs")
        bus.send("a", "b", "/1")
        with pytest.raises(zbus.Invalid, match="not allowed to send"):
            bus.send("secret", "b", "/1")
        assert [receive(logs).data for _ in range(2)] == ["asked a", "asked secret"]
        said.wait("asked a")
        said._bus = bus
        bus.send("c", "d", "/1")
        assert len(said.problems) == 1
        assert "the policy is being asked" in str(said.problems[0])
    assert seen
    assert not any(seen)


def test_a_link_that_cannot_connect(zbus_dir: str, root: Root) -> None:
    async def main(said: Sends) -> None:
        async with Link("nats://127.0.0.1:1", out=["a"], dir=zbus_dir) as link:
            task = asyncio.create_task(link.run())
            async with asyncio.timeout(LIMIT):
                while not said.messages:
                    await asyncio.sleep(0.01)
            link.stop()
            await task

    with zbus.Bus(dir=zbus_dir) as other:
        said = root(other)
        asyncio.run(main(said))
        said.wait("link: ")
        assert said.messages[0].endswith(": trying again")
