"""What the processes of a soak do: `python -m tests.faults.soak_peers publish|listen ARGUMENTS...`.

Each notes what it does before and after it does it, in files that its own death does not harm. It obeys lines
on its standard input, ends with it, and prints a line when it has done as told.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import zbus

from .ledger import GAP, INTACT, SECOND, TORN
from .records import FACTS, GAVE_UP, ORIGIN, RECEIPTS, SENDS, UNKNOWN, Records
from .soak_events import (
    PATTERNS,
    TOOL_TOPIC,
    TOPIC_NUMBER,
    TOPICS,
    capacity_of,
    data_of,
    identify,
    path_of,
)

__all__ = ["LINGER"]

LINGER = 20.0
"""A publisher's, in seconds: longer than any stop, so that what is sent before an orderly end must arrive."""

BURSTS = (1, 1, 20, 20, 60, 60, 60, 1500)
QUEUES = (
    ("drop", 3),
    ("drop", 16),
    ("drop", 200),
    ("drop", 1_000_000),
    ("drop", 1_000_000),
    ("block", 10),
    ("block", 2000),
)
LAST_BURSTS = (0, 300)
CHANNELS = 3
CALM_NS = SECOND
# Two looks at the queue further apart than this: the process was stopped, or the machine busy elsewhere.
JUMP_NS = SECOND // 4

now = time.monotonic_ns


def tell(word: str) -> None:
    print(word, flush=True)


class Publisher:
    """Sends to a few topics, in bursts, until its input ends."""

    def __init__(self, number: int, seed: str, directory: Path, rate: float) -> None:
        self._number = number
        self._rng = random.Random(seed)
        self._rate = rate
        self._topics = self._rng.sample(sorted({*range(len(TOPICS))} - {TOOL_TOPIC}), self._rng.randint(2, 6))
        self._sends = Records(directory / f"{number}.sends", SENDS)
        self._gave_up = Records(directory / f"{number}.gave_up", GAVE_UP)
        self._origin = Records(directory / f"{number}.origin", ORIGIN)
        self._known = False
        self._event = 0
        self._ending = threading.Event()
        options = {
            "send_timeout": self._rng.choice((0.3, 1.0, 5.0)),
            "capacity": capacity_of(number),
            "coalesce": self._rng.choice((None, None, 0.001, 0.1)),
        }
        (directory / f"{number}.json").write_text(json.dumps(options))
        self._bus = zbus.Bus(linger=LINGER, **options)
        logging.getLogger("zbus").addHandler(GiveUps(self._gave_up))

    def run(self) -> None:
        """Send; perhaps close amid a burst. What is lost then, marks tell."""
        threading.Thread(target=self._obey, daemon=True).start()
        tell("ready")
        while not self._ending.is_set():
            burst = self._rng.choice(BURSTS)
            for _ in range(burst):
                self._send(self._rng.choice(self._topics))
            self._ending.wait(burst / self._rate * self._rng.uniform(0.5, 1.5))
        for _ in range(self._rng.choice(LAST_BURSTS)):
            self._send(self._rng.choice(self._topics))
        self._bus.close()

    def _obey(self) -> None:
        sys.stdin.read()
        self._ending.set()

    def _send(self, topic: int) -> None:
        count = self._rng.choice((1, 1, 1, 1, 1, 1, 1, 5))
        numbers = range(self._event + 1, self._event + 1 + count)
        begun = now()
        self._sends.append(begun, 0, topic, count)
        while not self._try(topic, numbers):
            # It went to nobody and took no number: the same again, as one longer send.
            if self._ending.is_set():
                self._sends.withdraw()
                return
        self._sends.amend(begun, now(), topic, count)
        self._event += count
        if not self._known:
            self._note_origin()

    def _note_origin(self) -> None:
        """Note under which origin it numbers: a subscription may be told of losses alone."""
        for peer in zbus.peers():
            if peer.pid == os.getpid() and peer.origins:
                self._known = True
                self._origin.append(int(peer.origins[-1], 16))

    def _try(self, topic: int, numbers: range) -> bool:
        first = numbers[0]
        try:
            if len(numbers) == 1:
                data = data_of(self._number, first, raw=self._rng.random() < 0.3)
                self._bus.send(*TOPICS[topic], path_of(self._number, first), data)
            else:
                items = [(path_of(self._number, n), data_of(self._number, n)) for n in numbers]
                self._bus.send_many(*TOPICS[topic], items)
        except zbus.Timeout:
            return False
        return True


class GiveUps(logging.Handler):
    """Notes whom a publisher gave up joining, as the bus logs it."""

    def __init__(self, records: Records) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        """Note the process, which the roster tells, if it is a join time-out."""
        if "did not finish joining" in record.msg and isinstance(record.args, tuple):
            self._records.append(now(), pid_of(str(record.args[0]).split()[0]))


def pid_of(ingress: str) -> int:
    """Return the process of an ingress, 0 if it has gone."""
    for entry in Path(os.environ["ZBUS_DIR"], "v1", "default").glob(f"{ingress}.*.drop"):
        with suppress(FileNotFoundError):  # its epoch has just moved on
            return int(json.loads(entry.read_bytes())["pid"])
    return 0


class Listener:
    """One thread of a subscribing process: one subscription after the other, each of another kind."""

    def __init__(self, bus: zbus.Bus, directory: Path, name: str, rng: random.Random) -> None:
        self._bus, self._directory, self._name, self._rng = bus, directory, name, rng
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Let the subscription end soon, in the orderly way."""
        self._ending.set()

    def join(self) -> None:
        """Wait for it."""
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._ending.is_set():
            turn += 1
            Turn(self._bus, self._directory / f"{self._name}-{turn}", self._rng, self._ending).run()


class Turn:
    """One subscription, and all that is noted of it."""

    def __init__(self, bus: zbus.Bus, path: Path, rng: random.Random, ending: threading.Event) -> None:
        self._bus, self._rng, self._ending = bus, rng, ending
        self._system, self._kind = rng.choice(PATTERNS)
        self._overflow, self._capacity = rng.choice(QUEUES)
        about = {
            "system": self._system,
            "kind": self._kind,
            "overflow": self._overflow,
            "capacity": self._capacity,
        }
        path.with_suffix(".json").write_text(json.dumps(about))
        self._receipts = Records(path.with_suffix(".receipts"), RECEIPTS)
        self._facts = Records(path.with_suffix(".facts"), FACTS)
        self._asked = now()
        self._facts.append(self._asked, 0, 0, 0, UNKNOWN, 0)
        self._opened = self._closing = self._calm = 0
        self._slow = self._look = 0

    def run(self) -> None:
        """Subscribe, read in one way or another, close, and read the rest."""
        sub = self._bus.subscribe(
            self._system, self._kind, overflow=self._overflow, capacity=self._capacity, on_gap=self._note_gap
        )
        self._opened = self._slow = self._look = now()
        self._amend()
        seconds = self._rng.choice((0.0, 0.2, 3.0, 6.0, 12.0))
        self._rng.choice((self._poll, self._poll_lazily, self._iterate))(sub, seconds)
        for evt in sub:
            self._note(evt)
        channel = sub.channel()
        times = (self._asked, self._opened, self._closing, self._calm)
        self._facts.amend(*times, sub.lost, channel.malformed)
        self._facts.close()
        self._receipts.close()

    def _amend(self) -> None:
        self._facts.amend(self._asked, self._opened, self._closing, self._calm, UNKNOWN, 0)

    def _iterate(self, sub: zbus.Subscription, seconds: float) -> None:
        """Read the fastest way; another thread closes."""

        def close() -> None:
            self._ending.wait(seconds)
            self._close(sub)

        closer = threading.Thread(target=close)
        closer.start()
        for evt in sub:
            self._note(evt)
        closer.join()

    def _close(self, sub: zbus.Subscription) -> None:
        self._closing = now()
        self._amend()
        sub.close()

    def _poll(self, sub: zbus.Subscription, seconds: float) -> None:
        """Read as fast as can be."""
        self._read(sub.channel(), seconds)
        self._close(sub)

    def _poll_lazily(self, sub: zbus.Subscription, seconds: float) -> None:
        """Do nothing now and then, so that the queue fills; keep up in the end."""
        until = now() + int(seconds * SECOND)
        longest = 0.3 if self._overflow == "block" else 1.2
        while now() < until and not self._ending.is_set():
            self._ending.wait(self._rng.uniform(0, longest))
            self._slow = now()
            self._read(sub.channel(), self._rng.uniform(0, 0.5))
        self._read(sub.channel(), 1.5 if seconds else 0)
        self._close(sub)

    def _read(self, channel: zbus.Channel, seconds: float) -> None:
        until = now() + int(seconds * SECOND)
        while self._look < until and not self._ending.is_set():
            for timeout in (0, 0.1):
                if (evt := self._receive(channel, timeout)) is not None:
                    self._note(evt)
                    break

    def _receive(self, channel: zbus.Channel, timeout: float) -> zbus.Event | None:
        look = now()
        if look - self._look > JUMP_NS:
            self._slow = look
        self._look = look
        try:
            return channel.receive(timeout)[0]
        except zbus.Timeout:
            # It was empty at some time after the look, so it has had all that had come by then.
            if look - self._slow > CALM_NS:
                self._calm = look
                self._amend()
            return None

    def _note(self, evt: zbus.Event) -> None:
        publisher, event, intact = identify(evt.path, evt.data)
        topic = TOPIC_NUMBER.get((evt.system, evt.kind), 255)
        what = INTACT if intact else TORN
        self._receipts.append(int(evt.origin, 16), event, evt.seq, publisher, topic, what)

    def _note_gap(self, gap: zbus.Gap) -> None:
        topic = TOPIC_NUMBER[gap.system, gap.kind]
        self._receipts.append(int(gap.origin, 16), gap.first, gap.last, 0, topic, GAP)


def publish(number: str, seed: str, directory: str, rate: str) -> None:
    Publisher(int(number), seed, Path(directory), float(rate)).run()


def listen(name: str, seed: str) -> None:
    """Hold several channels on one bus; `play DIRECTORY` begins, `rest` ends the channels alone."""
    with zbus.Bus() as bus:
        # The shared ingress stays from here on, so what this process holds at rest is always the same.
        bus.subscribe("soak").close()
        tell("ready")
        listeners: list[Listener] = []
        for turn, line in enumerate(sys.stdin):
            word, _, directory = line.strip().partition(" ")
            if word == "play":
                listeners = [
                    Listener(bus, Path(directory), f"{name}-{index}", random.Random(f"{seed} {turn} {index}"))
                    for index in range(CHANNELS)
                ]
            else:
                finish(listeners)
                tell("resting")
        finish(listeners)


def finish(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.end()
    for listener in listeners:
        listener.join()


def fail(failure: threading.ExceptHookArgs) -> None:
    """End the process when a thread fails: its notes end there, so nothing else it did could be judged."""
    threading.__excepthook__(failure)
    os._exit(1)


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    threading.excepthook = fail
    command: dict[str, Any] = {"publish": publish, "listen": listen}
    command[sys.argv[1]](*sys.argv[2:])
