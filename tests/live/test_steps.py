"""An interrupt at each step in turn, wherever Python looks for one: no lock stays locked.

`test_interrupts.py` sends real signals at random moments. This comes by every moment there is, once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import zbus
from zbus.runtime import lifecycle, threads

from .process import receive

PACKAGE = str(Path(zbus.__file__).parent)


class Interrupt(BaseException):
    """What Ctrl-C would be."""


class Step:
    """Raises at the n-th moment at which Python, in this package, looks for signals.

    That is at the beginning of a function and after a call into C; not between the call that takes a lock for
    `with` and its block.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        self.left -= 1
        if self.left < 0 and not self.where:
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno} {event}"
            raise Interrupt


def each_step(use: Callable[[], object]) -> Iterator[str]:
    """Call `use` again and again, interrupted one step later each time, until it comes to its end."""
    for number in range(10_000):
        step = Step(number)
        sys.setprofile(step)
        try:
            use()
        except Interrupt:
            pass
        finally:
            sys.setprofile(None)
        if not step.where:
            assert number > 5
            return
        yield step.where
    raise AssertionError("it never came to its end")


def in_thread(use: Callable[[], object]) -> Any:
    """Return what `use` returns in another thread, which has none of this one's locks."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(use()))
    thread.start()
    thread.join(20)
    return got[0] if got else None


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("how", ["receive", "receive with a timeout", "nothing there", "iterate", "select"])
def test_a_receive_that_is_interrupted_anywhere_leaves_the_channel_to_others(
    bus: zbus.Bus, overflow: str, how: str
) -> None:
    sub, other = bus.subscribe("a", overflow=overflow), bus.subscribe("other")
    channel = sub.channel()

    def nothing() -> None:
        with pytest.raises(zbus.Timeout):
            other.channel().receive(timeout=0)

    def iterate() -> None:
        kept.append(iter(sub))  # it would be closed, and that interrupted, amid the next step
        next(kept[-1])

    kept: list[Iterator[zbus.Event]] = []
    uses: dict[str, Callable[[], object]] = {
        "receive": channel.receive,
        "receive with a timeout": lambda: channel.receive(timeout=5),
        "nothing there": nothing,
        "iterate": iterate,
        "select": lambda: zbus.select(other.channel(), channel, timeout=5),
    }
    bus.send("a", "b", "/1")
    for where in each_step(uses[how]):
        for used in (channel, other.channel()):
            lock = used._source.lock
            assert in_thread(lambda lock=lock: lock.acquire(timeout=5) and (lock.release() or True)), where
        bus.send("a", "b", "/1")
    assert in_thread(lambda: (bus.send("a", "b", "/1"), receive(sub))), how


@pytest.mark.parametrize("way", ["short", "long", "many"])
@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_a_send_that_is_interrupted_anywhere_leaves_the_publisher_to_others(
    bus: zbus.Bus, zbus_dir: str, way: str, overflow: str
) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    with zbus.Bus(dir=zbus_dir) as sender:
        sender.send("a", "b", "/1", "first")
        uses: dict[str, Callable[[], object]] = {
            "short": lambda: sender.send("a", "b", "/1"),
            "long": lambda: sender.send("a", "b", "/1", timeout=5),
            "many": lambda: sender.send_many("a", "b", [("/1", None)]),
        }
        for where in each_step(uses[way]):
            sent = in_thread(lambda: sender.send("a", "b", "/1", "other", timeout=5) or True)
            assert sent, f"nobody else can send any more, after {where}"
        assert not sender._node.publisher.sending
        sender.send("a", "b", "/1", "last")
    while receive(sub).data != "last":
        pass


def test_a_subscription_whose_close_is_interrupted_anywhere_is_closed_by_the_next(zbus_dir: str) -> None:
    """With `block`: it has an ingress of its own, which is to end with it."""
    for number in range(10_000):
        step, bus = Step(number), zbus.Bus(dir=zbus_dir)
        sub = bus.subscribe("a", overflow="block")
        bus.send("a", "b", "/1")
        sys.setprofile(step)
        try:
            sub.close()
        except Interrupt:
            pass
        finally:
            sys.setprofile(None)
        assert in_thread(lambda bus=bus: bus.close() or True), f"the bus does not close, after {step.where}"
        left = {path.name for path in Path(zbus_dir, "v1", "default").iterdir()} - {"token"}
        assert not left, f"{left} left, after {step.where}"
        if not step.where:
            break
    assert number > 5


@pytest.mark.parametrize("then", ["close", "exit"])
def test_a_bus_whose_close_is_interrupted_anywhere_is_closed_by_the_next(zbus_dir: str, then: str) -> None:
    """Or at the exit of the process."""
    for number in range(10_000):
        step, bus = Step(number), zbus.Bus(dir=zbus_dir)
        bus.subscribe("a", overflow="latest")
        sys.setprofile(step)
        try:
            bus.close()
        except Interrupt:
            pass
        finally:
            sys.setprofile(None)
        end = bus.close if then == "close" else lifecycle._close_all
        assert in_thread(lambda end=end: end() or True), f"it does not close, after {step.where}"
        left = {path.name for path in Path(zbus_dir, "v1", "default").iterdir()} - {"token"}
        assert not left, f"{left} left, after {step.where}"
        assert not lifecycle.open_nodes(), step.where
        if not step.where:
            break
    assert number > 50
    deadline = time.monotonic() + 20
    while threads.running() and time.monotonic() < deadline:  # whose end an interrupt has not awaited
        time.sleep(0.001)


def test_a_close_that_is_interrupted_at_the_exit_leaves_no_file(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = zbus.Bus(dir=zbus_dir)
    bus.subscribe("a", overflow="block")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bus._node, "_finish", interrupted)
        lifecycle._close_all()
    assert {path.name for path in Path(zbus_dir, "v1", "default").iterdir()} == {"token"}
    bus.close()
