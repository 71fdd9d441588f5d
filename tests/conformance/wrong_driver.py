"""The driver of the Python package with one mistake: `wrong_driver.py <mistake>`. The kit must fail each.

A mistake is a function here; it changes the driver or the package before the driver runs.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

import zbus
from zbus.node.presence import Presence
from zbus.protocol import decoder, wire
from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher
from zbus.roster.reaping import Reaper
from zbus.sending import streams

FOLDER = Path(__file__).parents[2] / "tools" / "peers" / "python"
sys.path.insert(0, str(FOLDER))
conform: Any = __import__("conform")
rules: Any = __import__("rules")

Fields = dict[str, Any]
Driver, Received = conform.Driver, conform.Received


def counts_no_loss() -> None:
    Decoder._record_gap = lambda *_: None  # type: ignore[method-assign]


def takes_what_a_link_sends_again() -> None:
    decoder.is_relayed = lambda _: False


def counts_malformed_twice() -> None:
    plain = Decoder._reject

    def reject(self: Decoder, reason: str) -> None:
        plain(self, reason)
        self.malformed += 1

    Decoder._reject = reject  # type: ignore[method-assign]


def takes_any_json() -> None:
    lax = SimpleNamespace(**{**vars(orjson), "loads": json.loads})
    decoder.orjson = wire.orjson = lax  # type: ignore[assignment]


def leaves_kinds_out() -> None:
    plain = rules.prefixes
    rules.prefixes = lambda system, _=None: plain(system)


def ignores_case() -> None:
    plain = Matcher.matches
    Matcher.matches = lambda self, name: plain(self, name.lower())  # type: ignore[method-assign]


def sends_any_name() -> None:
    rules.check_sendable = lambda system, kind: (system, kind)


def sends_nan_as_null() -> None:
    def encode(data: Any) -> bytes:
        return data if isinstance(data, bytes) else orjson.dumps(data)

    rules.encode_data = encode


def says_unsupported() -> None:
    rules.RULES["numbers"] = lambda _: None
    plain = conform.answer
    conform.answer = lambda driver, request: (
        {"unsupported": "no time"} if request["verb"] == "numbers" else plain(driver, request)
    )


def prints_garbage() -> None:
    print("ready")


def prints_more_at_the_end() -> None:
    atexit.register(print, "{}")


def ends_with_an_error() -> None:
    atexit.register(os._exit, 1)


def dies() -> None:
    def die(_: Fields) -> Fields:
        print("about to die", file=sys.stderr, flush=True)
        os._exit(3)

    rules.RULES["decode"] = die


def hangs() -> None:
    rules.RULES["decode"] = lambda _: sys.stdin.read()


def hides_its_loss() -> None:
    _change_answers(lambda fields: fields.update(lost=0))


def hides_a_lost_event() -> None:
    plain = Received.take

    def take(self: Any, seconds: float) -> zbus.Event | None:
        if self.count == 100:
            self.sub.channel().receive(timeout=seconds)
        return plain(self, seconds)  # type: ignore[no-any-return]

    Received.take = take


def counts_a_loss_too_much() -> None:
    _change_answers(lambda fields: fields.update(lost=fields["lost"] + (fields["lost"] > 0)))


def joins_late() -> None:
    plain = Driver._subscribe

    def subscribe(self: Any, fields: Fields) -> Any:
        early = conform._micros()
        sub = plain(self, fields)
        conform._micros = lambda: early
        return sub

    Driver._subscribe = subscribe


def ignores_block() -> None:
    _change_requests("subscribe", lambda fields: fields.pop("overflow", None))


def ignores_the_kind() -> None:
    _change_requests("subscribe", lambda fields: fields.pop("kind", None))


def ignores_the_limit() -> None:
    _change_requests("open", lambda fields: fields.pop("max_event_bytes", None))


def sends_bytes_as_text() -> None:
    _change_requests(
        "send", lambda fields: fields.update(json=json.dumps(fields.pop("hex"))) if "hex" in fields else 0
    )


def batches_in_reverse() -> None:
    plain = zbus.Bus.send_many
    zbus.Bus.send_many = lambda self, system, kind, items: plain(self, system, kind, list(items)[::-1])  # type: ignore[method-assign, misc]


def leaves_a_file() -> None:
    def leave(driver: Any) -> None:
        if driver.bus is not None:
            path = Path(repr(driver.bus).removesuffix(">").rpartition(" at ")[2])
            (path / "0123456789abcdef.1.drop").write_text("{}")

    _at_close(leave)


def leaves_the_dead() -> None:
    Reaper.reap = lambda *_: False  # type: ignore[method-assign]
    Reaper.remove_ingresses = lambda *_: False  # type: ignore[method-assign]


def stands_still_while_busy() -> None:
    def busy(_: Any, fields: Fields) -> Fields:
        wake = f"sleep {fields['seconds']}; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", wake])
        os.kill(os.getpid(), 19)
        return {}

    Driver.busy = busy


def ends_at_once() -> None:
    _at_close(lambda _: os._exit(0))


def stays_where_it_was() -> None:
    Presence.restore = lambda *_, **__: None  # type: ignore[method-assign]


def keeps_its_origin() -> None:
    streams.MAX_TOPICS = 2**40  # type: ignore[misc]


def has_small_origins() -> None:
    """No mistake: the kit is told that an origin has 500 topics."""
    streams.MAX_TOPICS = 500  # type: ignore[misc]


def sends_pings_only() -> None:
    def ping(self: Any, fields: Fields) -> Fields:
        for n in range(fields["count"]):
            self.bus.send(fields["system"], fields["kind"], "/p", {"n": n})
        return {"micros": [1.0] * fields["count"]}

    Driver.ping = ping


def takes_one_less() -> None:
    plain = Driver.speed

    def speed(self: Any, fields: Fields) -> Any:
        return plain(self, {**fields, "count": fields["count"] - (fields["role"] == "receive")})

    Driver.speed = speed


def sends_no_empty_list() -> None:
    _change_requests("send", lambda fields: fields.pop("json") if fields.get("json") == "[]" else 0)


def _at_close(action: Callable[[Any], object]) -> None:
    plain = Driver.close

    def close(self: Any, fields: Fields) -> Any:
        if "name" not in fields:
            action(self)
        return plain(self, fields)

    Driver.close = close


def _change_answers(change: Callable[[Fields], object]) -> None:
    plain = Received.answer

    def answer(self: Any) -> Fields:
        fields: Fields = plain(self)
        change(fields)
        return fields

    Received.answer = answer


def _change_requests(verb: str, change: Callable[[Fields], object]) -> None:
    plain = getattr(Driver, verb)

    def act(self: Any, fields: Fields) -> Any:
        change(fields)
        return plain(self, fields)

    setattr(Driver, verb, act)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    conform.main(Driver())
