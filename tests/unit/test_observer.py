"""How long the oldest unread event has waited, from what one can see of a channel from outside."""

from __future__ import annotations

from typing import Any, cast

from zbus.protocol.decoder import Decoder
from zbus.protocol.patterns import Matcher
from zbus.receiving.observer import Observer
from zbus.receiving.source import Source

from .test_decoder import frame


class Scene:
    """A source of which the test says what can be seen."""

    superseded = 3

    def __init__(self) -> None:
        self.decoder = Decoder(Matcher("*"), None)
        self.seen: tuple[bool | None, float | None] = (False, None)
        self._observer = Observer(cast(Source, self))
        self._taken = 0

    def waiting(self) -> bool | None:
        return self.seen[0]

    def lag(self) -> float | None:
        return self.seen[1]

    def look(
        self, now: float, waiting: bool | None, lag: float | None = None, *, taken: int = 0
    ) -> dict[str, Any]:
        """Return what a look at `now` tells, after so many events were taken."""
        for _ in range(taken):
            self._taken += 1
            self.decoder.decode(frame(self._taken))
        self.seen = waiting, lag
        return self._observer.look(now)


def test_counts_are_those_of_the_channel() -> None:
    scene = Scene()
    scene.decoder.decode(b"nonsense")
    scene.decoder.lose(2)
    told = scene.look(1.0, False, taken=7)
    assert told == {
        "received": 5,
        "lost": 2,
        "malformed": 1,
        "superseded": 3,
        "mismatched": 0,
        "unread": 0.0,
    }


def test_nothing_that_waits_has_waited_for_no_time() -> None:
    scene = Scene()
    assert scene.look(1.0, False)["unread"] == 0
    assert scene.look(2.0, False, taken=5)["unread"] == 0


def test_a_reader_that_waits_itself_has_nothing_unread() -> None:
    scene = Scene()
    scene.look(1.0, None, taken=3)
    assert [scene.look(now, None)["unread"] for now in (2.0, 3.0, 9.0)] == [0, 0, 0]


def test_what_nobody_takes_waits_since_the_look_that_found_it_and_never_for_0_seconds() -> None:
    scene = Scene()
    scene.look(1.0, False)
    assert [scene.look(now, True)["unread"] for now in (2.0, 3.0, 10.5)] == [0.001, 1.0, 8.5]


def test_a_frame_that_was_taken_tells_how_long_the_others_have_waited() -> None:
    scene = Scene()
    assert scene.look(10.0, True, 4.0, taken=2)["unread"] == 4.0
    assert scene.look(11.0, None, 4.5, taken=2)["unread"] == 4.5


def test_a_reader_that_stops_is_as_late_as_it_was_and_later_every_second() -> None:
    scene = Scene()
    scene.look(10.0, True, 4.0, taken=2)
    assert [scene.look(now, True)["unread"] for now in (11.0, 12.0)] == [5.0, 6.0]
    assert scene.look(13.0, False, 0.5, taken=9)["unread"] == 0
    assert scene.look(14.0, True)["unread"] == 0.001


def test_of_a_reader_whose_frames_tell_no_time_nothing_is_known() -> None:
    scene = Scene()
    assert "unread" not in scene.look(10.0, True, taken=2)
    assert "unread" not in scene.look(11.0, None, taken=2)
    assert scene.look(12.0, True)["unread"] == 0.001


def test_a_count_that_cannot_be_had_stays_as_it_was() -> None:
    scene = Scene()
    scene.look(1.0, False, taken=4)
    scene.decoder._streams.changes += 1  # as in the middle of a frame
    assert scene.look(2.0, False)["received"] == 4
