"""Runs the sequences of `vectors/loss.json` through the decoder of a channel."""

from __future__ import annotations

from typing import Any

import pytest

from zbus.protocol import decoder
from zbus.protocol.decoder import Decoder
from zbus.protocol.loss import MAX_TOPICS, Streams
from zbus.protocol.patterns import Matcher

from .plain_peer import PlainPeer
from .sequences import CASES, Case, run


class Channel:
    """The decoder of a channel, as `sequences` asks for it."""

    def __init__(
        self,
        pattern: str,
        kind_pattern: str | None,
        announced: int | None,
        joined: int | None,
        limit: int = MAX_TOPICS,
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "Streams", lambda wants: Streams(wants, limit))
            self._decoder = Decoder(Matcher(pattern), Matcher(kind_pattern) if kind_pattern else None)
        self._decoder.joined(*((-1, -1) if announced is None or joined is None else (announced, joined)))
        self.gaps: list[tuple[int, int]] = []

    lost = property(lambda self: self._decoder.lost)
    malformed = property(lambda self: self._decoder.malformed)

    def receive(self, frame: bytes) -> list[Any]:
        self._decoder.gaps.clear()
        event = self._decoder.decode(frame)
        events = [] if event is None else [event]
        while self._decoder.batch is not None:
            events += filter(None, [self._decoder.rest()])
        self.gaps = [(gap.first, gap.last) for gap in self._decoder.gaps]
        assert all(gap.origin in frame.decode("latin-1") for gap in self._decoder.gaps)
        return events


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_a_channel_counts_what_the_vectors_say(case: Case) -> None:
    run(case, Channel)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_so_does_a_peer_that_was_written_from_the_specification(case: Case) -> None:
    run(case, PlainPeer)


def test_every_sequence_has_an_id_of_its_own() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)


def test_in_many_sequences_nothing_may_be_counted() -> None:
    quiet = [case for case in CASES if not case["steps"][-1]["lost"]]
    assert 3 * len(quiet) >= len(CASES)
