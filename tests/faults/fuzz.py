"""Fault 8: nonsense, to every socket that a member opens."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import zbus

from .foreign import Ingress, Publisher, connect, events, garbage, subscriptions, touch
from .harness import Row, Stage, files, until
from .kills import complete, finish, start

_CHUNK = 1000
_RAW_SERVERS = 3


class Scene:
    """A victim that is in every role, bystanders that talk beside it and with it, and our own ear."""

    def __init__(self, stage: Stage, limit: int = 16 * 1024 * 1024) -> None:
        self.stage = stage
        self.listeners = [stage.spawn("listen", system).ready() for system in ("steady", "victim")]
        others = files(stage.path)
        self.victim = stage.spawn("victim", limit).ready()
        mine = {Path(name) for name in files(stage.path) if name not in others}
        entries = [name for name in mine if name.suffix in (".drop", ".block")]
        self.sockets = [stage.path / f"{name.name.split('.')[0]}.sock" for name in entries]
        self.load = stage.spawn("load", 500, "steady").ready()
        self._pong = stage.bus().subscribe("pong")
        self._pings = 0
        start(self.load, "go")

    def ping(self, peer: Publisher) -> None:
        """Send an event by way of `peer` and wait until the victim has answered it."""
        self._pings += 1
        path = f"/{self._pings}"
        peer.socket.send(f"ping\0k\0{path}\0\0".encode())
        while True:
            evt, _ = self._pong.channel().receive(timeout=30)
            assert evt is not None
            if evt.path == path:
                return

    def relink(self, row: Row) -> None:
        """See that a peer that connects anew is heard, at each ingress."""
        begin = time.monotonic()
        for path in self.sockets:
            with Publisher(path) as peer:
                self.ping(peer)
        row.at_most("linked again after", time.monotonic() - begin, 5, "s", speed=False)

    def end(self, row: Row) -> None:
        """End the load; claim that nobody lost anything, and nobody crashed."""
        _, [found] = finish(self.load, self.listeners[:1])
        beside = complete(row, found)
        self.victim.tell("stop")
        sent = self.victim.hear()["sent"]
        reports = self.victim.hear()["reports"]
        row.equal("numbers that the victim got", [each["runs"][0][0] for each in reports], [1, 1])
        row.equal("holes in them", [len(each["runs"]) for each in reports], [1, 1])
        with zbus.Bus(dir=self.stage.dir) as bus:
            bus.send("victim", "tick", "/end", [sent + 1, ""])
            heard = self.listeners[1].hear()
        victims = complete(row, heard)
        row.end(self.victim, self.load, *self.listeners)
        row.lost = f"{beside} beside it, {victims} sent by the victim"


def fuzzed(stage: Stage) -> Iterator[Row]:
    scene = Scene(stage)
    rows = [_frames(scene), _raw_bytes(scene), _upstream(scene), _raw_server(scene)]
    scene.end(rows[-1])
    for row in rows:
        row.lost = rows[-1].lost
        yield row


def _frames(scene: Scene) -> Row:
    row = scene.stage.row("fuzzed frames to every ingress of a member")
    count = scene.stage.size(100_000, 5_000)
    for path in scene.sockets:
        fuzz = events(scene.stage.random)
        with Publisher(path) as peer:
            for _ in range(count // _CHUNK):
                for frame in islice(fuzz, _CHUNK):
                    peer.socket.send(frame)
                scene.ping(peer)
    scene.relink(row)
    row.done = f"{count:,} to the `drop` and {count:,} to the `block` one"
    malformed = sum(peer.counters.get("malformed", 0) for peer in scene.stage.peers())
    row.claim(f"only {malformed} counted as malformed", malformed > count / 2)
    row.show(f"{malformed:,} counted as malformed")
    return row


def _raw_bytes(scene: Scene) -> Row:
    row = scene.stage.row("raw bytes to their unix sockets")
    count = scene.stage.size(2000, 100)
    half_open: list[socket.socket] = []
    for path in scene.sockets:
        for _ in range(count):
            raw = connect(path)
            with suppress(ConnectionError):  # it has had enough
                raw.sendall(garbage(scene.stage.random))
            half_open.append(raw)
            if len(half_open) > 20:  # others hang on for a while
                half_open.pop(scene.stage.random.randrange(20)).close()
    scene.relink(row)
    for raw in half_open:
        raw.close()
    row.done = f"{count:,} connections to each, up to 20 of them left open"
    return row


def _upstream(scene: Scene) -> Row:
    """A publisher connects to ingresses; what comes back from there may be anything as well."""
    row = scene.stage.row("fuzzed frames from an ingress to every publisher")
    stage, count = scene.stage, scene.stage.size(100_000, 5_000)
    again = 0.0
    for overflow in ("drop", "block"):
        ident = new_id(stage.random)
        with Ingress(stage.path, [b"victim\0"], ident, overflow) as offender:
            offender.announce()
            _wait_for(offender)
            fuzz = subscriptions(stage.random, ident)
            for _ in range(count // _CHUNK):
                offender.send(islice(fuzz, _CHUNK))
                until(offender.idle.is_set, 30, "the fuzz is sent")
                touch(stage.path)  # so that publishers look at it
        begin = time.monotonic()
        with Ingress(stage.path, [b"victim\0"], new_id(stage.random), overflow) as reformed:
            reformed.announce()
            _wait_for(reformed)
        again = max(again, time.monotonic() - begin)
    row.at_most("linked again after", again, 5, "s", speed=False)
    row.done = f"{count:,} from a `drop` and {count:,} from a `block` one"
    return row


def _wait_for(ingress: Ingress) -> None:
    until(lambda: ingress.received, 30, "an event from the victim")


def new_id(rng: random.Random) -> str:
    return f"{rng.getrandbits(64):016x}"


def _raw_server(scene: Scene) -> Row:
    row = scene.stage.row("raw bytes from an ingress to every publisher")
    stage = scene.stage
    slowest = 0.0
    for _ in range(stage.size(_RAW_SERVERS, 1)):
        with RawServer(stage.path, new_id(stage.random), lambda: garbage(stage.random)) as server:
            until(lambda: server.connections >= 3, 30, "all publishers have tried it")
        begin = time.monotonic()
        with Ingress(stage.path, [b"victim\0"], new_id(stage.random)) as reformed:
            reformed.announce()
            _wait_for(reformed)
        slowest = max(slowest, time.monotonic() - begin)
    row.at_most("linked again after", slowest, 5, "s", speed=False)
    row.done = "it answers each connection with nonsense and closes it, or hangs on"
    return row


class RawServer:
    """A unix socket with an entry on the roster that answers with nonsense."""

    def __init__(self, path: Path, ident: str, answer: Callable[[], bytes]) -> None:
        self.connections = 0
        self._names = [path / f"{ident}.1.drop", path / f"{ident}.sock"]
        self._path = path
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._names[1]))
        self._listener.listen(100)
        self._names[0].write_text("{}")
        touch(path)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        held = []
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                with suppress(ConnectionError):
                    connection.sendall(self._answer())
                self.connections += 1
                held.append(connection)
                if self.connections % 2:
                    connection.close()
        for connection in held:
            connection.close()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            name.unlink(missing_ok=True)
        touch(self._path)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
