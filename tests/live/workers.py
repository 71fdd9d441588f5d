"""What the processes of the live tests do: `python -m tests.live.workers NAME ARGUMENTS...`.

A worker prints JSON lines; the first says that it is ready. It ends when its standard input does, so none
outlives its test. `tests/live/process.py` has the other end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from typing import Any

import zbus

SYSTEM, KIND = "orders.eu", "order.created"


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def told() -> str:
    return sys.stdin.readline().strip()


def until_told() -> threading.Event:
    """Return an event that is set when the test writes a line, or ends."""
    stop = threading.Event()
    threading.Thread(target=lambda: (told(), stop.set()), daemon=True).start()
    return stop


class Progress:
    """The number of the event that a publisher is sending, for other processes to read."""

    def __init__(self, path: str, create: bool = False) -> None:
        with open(path, "w+b" if create else "r+b") as file:
            if create:
                file.write(bytes(8))
                file.flush()
            self._map = mmap.mmap(file.fileno(), 8)

    def set(self, number: int) -> None:
        self._map[:] = struct.pack("Q", number)

    def get(self) -> int:
        return int(struct.unpack("Q", self._map[:])[0])


def waited_ms() -> float:
    """Return how long this process's main thread was ready to run and did not, in milliseconds."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e6


def full_speed(progress_path: str) -> None:
    """Publish as fast as can be until told to stop; report the slowest send, less what the machine took."""
    progress = Progress(progress_path, create=True)
    stop = until_told()
    worst = 0.0
    with zbus.Bus() as bus:
        tell(ready=True)
        number = 0
        while not stop.is_set():
            before = waited_ms()
            slowest = 0.0
            for _ in range(100):
                number += 1
                progress.set(number)
                start = time.perf_counter()
                bus.send(SYSTEM, KIND, "/n", number)
                slowest = max(slowest, (time.perf_counter() - start) * 1e3)
            worst = max(worst, slowest - (waited_ms() - before))
        counters = next(peer.counters for peer in zbus.peers() if peer.pid == os.getpid())
        tell(sent=number, worst_ms=worst, join_timeouts=counters["join_timeouts"])


def joiner(progress_path: str, rounds: str) -> None:
    """Join and leave, over and over; report every join after which an event was missing."""
    progress = Progress(progress_path)
    late: list[Any] = []
    with zbus.Bus() as bus:
        tell(ready=True)
        kept: list[zbus.Subscription] = []
        patterns = itertools.cycle(("orders.eu", "orders.**", "*"))
        for index, pattern in zip(range(int(rounds)), patterns, strict=False):
            sub = bus.subscribe(pattern, capacity=1000)
            in_flight = progress.get()
            first = next(iter(sub)).data
            if first > in_flight + 1:
                late.append([index, pattern, in_flight, first])
            kept.append(sub)
            if len(kept) > 2:
                kept.pop(0).close()
        tell(joins=int(rounds), late=late)


def send_once(number: str) -> None:
    """Be a new process that sends one event and exits."""
    zbus.send("jobs", "done", f"/job/{number}", int(number))


def send_once_each(first: str, count: str) -> None:
    """Fork new processes, one after the other; each sends one event and ends as a program does."""
    for number in range(int(first), int(first) + int(count)):
        pid = os.fork()
        if not pid:
            send_once(str(number))
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0


def listener(system: str, overflow: str) -> None:
    """Subscribe. Told a number, receive until as many events are accounted for, and tell the data and gaps.

    Told a pattern, subscribe to that as well.
    """
    with zbus.Bus() as bus:
        subs = [bus.subscribe(system, overflow=overflow)]
        tell(ready=True)
        numbers: list[int] = []
        while line := told():
            if line.isdigit():
                account(subs, numbers, int(line))
                tell(numbers=numbers, gaps=[gap[-2:] for sub in subs for gap in sub.channel().gaps])
            else:
                subs.append(bus.subscribe(line, overflow=overflow))
                tell(ready=True)


def account(subs: list[zbus.Subscription], numbers: list[int], least: int) -> None:
    """Receive until `least` events have come or are told to be lost."""
    deadline = time.monotonic() + 30
    while len(numbers) + sum(sub.lost for sub in subs) < least and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            _, evt, _ = zbus.select(*(sub.channel() for sub in subs), timeout=0.05)
            if evt is not None:
                numbers.append(evt.data)


def subscribe_when_told(system: str, overflow: str) -> None:
    """Subscribe when told to."""
    with zbus.Bus() as bus:
        tell(ready=True)
        if told():
            bus.subscribe(system, overflow=overflow)
            tell(subscribed=True)
            told()


def publisher(origin: str, count: str, capacity: str = "65536") -> None:
    """Send `count` numbered events each time it is told to; report the sum at the end."""
    with zbus.Bus(capacity=int(capacity)) as bus:
        bus.send("hello", "from", f"/{origin}")
        tell(ready=True)
        sent = 0
        while told():
            for number in range(sent + 1, sent + int(count) + 1):
                bus.send("stream", "tick", f"/{origin}", number)
            sent += int(count)
            tell(sent=sent)


def torrent(seconds: str, rate: str, size: str) -> None:
    """Send at about `rate` a second for a while; report how much, how slow, and how this process grew."""
    with zbus.Bus(capacity=1000) as bus:
        data = "x" * int(size)
        bus.send("stream", "tick", "/t", data)
        tell(ready=True)
        told()
        base = resident_mib()
        end = time.monotonic() + float(seconds)
        sent = 0
        pause = threading.Event()
        while time.monotonic() < end:
            for _ in range(int(rate) // 100):
                bus.send("stream", "tick", "/t", data)
                sent += 1
            pause.wait(0.01)  # a rate, not a wait for something to settle
        tell(sent=sent, grew_mib=resident_mib() - base)


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def reader(pattern: str, overflow: str, capacity: str = "65536") -> None:
    """Subscribe; when told a number, read on until an event has that data; report what was received."""
    with zbus.Bus(capacity=int(capacity)) as bus:
        sub = bus.subscribe(pattern, overflow=overflow)
        channel = sub.channel()
        tell(ready=True, pid=os.getpid())
        received = 0
        disorder = 0
        last: dict[str, int] = {}
        while goal := told():
            for evt in sub:
                if evt.system == "hello":
                    continue
                received += 1
                disorder += evt.data <= last.get(evt.origin, 0)
                last[evt.origin] = evt.data
                if evt.data >= int(goal):
                    break
            gaps = [list(gap) for gap in channel.gaps]
            tell(received=received, lost=channel.lost, gaps=gaps, disorder=disorder, origins=sorted(last))


def idle_subscriber(pattern: str, overflow: str, capacity: str) -> None:
    """Subscribe and never read."""
    with zbus.Bus(capacity=int(capacity)) as bus:
        _held = bus.subscribe(pattern, overflow=overflow)
        tell(ready=True)
        told()
        tell(rss=resident_mib())
        told()


def forking_subscriber(pattern: str, overflow: str) -> None:
    """Subscribe, and have a forked child that lives on."""
    with zbus.Bus() as bus:
        _held = bus.subscribe(pattern, overflow=overflow)
        tell(ready=True)
        child = os.fork()
        if not child:
            for stream in (sys.stdin, sys.stdout):
                os.close(stream.fileno())
            signal.pause()
        tell(child=child)
        told()


def crowd(first: str, publishers: str, each: str) -> None:
    """Be several publishing threads on one bus, each with a path of its own."""
    with zbus.Bus() as bus:

        def run(index: int) -> None:
            for number in range(1, int(each) + 1):
                bus.send(f"system{number % 10}", f"kind{number // 10 % 5}", f"/p{index}", number)

        threads = [
            threading.Thread(target=run, args=(index,))
            for index in range(int(first), int(first) + int(publishers))
        ]
        tell(ready=True)
        told()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tell(done=True)


def audience(subscribers: str, total: str) -> None:
    """Hold many channels in one process; report how many events each got, and any out of order."""
    with zbus.Bus() as bus:
        subs = []
        for index in range(int(subscribers)):
            system, kind = f"system{index % 10}", f"kind{index // 10 % 5}"
            subs.append(bus.subscribe(system, kind if index < 50 else None))
        tell(ready=True)
        counts, disorder, lost = [], 0, 0
        for index, sub in enumerate(subs):
            expected = int(total) // (50 if index < 50 else 10)
            last: dict[str, int] = {}
            count = 0
            for evt in sub:
                count += 1
                disorder += evt.data <= last.get(evt.path, 0)
                last[evt.path] = evt.data
                if count == expected:
                    break
            counts.append(count)
            lost += sub.lost
        tell(counts=counts, disorder=disorder, lost=lost)
        told()


def sender() -> None:
    """Send as many events of a system as told, again and again."""
    with zbus.Bus() as bus:
        tell(ready=True)
        while words := told().split():
            for _ in range(int(words[1])):
                bus.send(words[0], "k", "/1", timeout=30)
            tell(sent=int(words[1]))


def forks_amid_sends() -> None:
    """Send an event and fork; tell how the child ended, which leaves without a word."""
    import warnings

    with zbus.Bus() as bus:
        bus.send("a", "b", "/1")
        tell(ready=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks in a process with threads
            child = os.fork()
        if not child:
            os._exit(0)
        tell(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        told()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
