"""How long a publisher waits: for those who could not answer yet, and not for those who do not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from zbus.runtime.process_state import ProcessState
from zbus.sending import join_wait
from zbus.sending.join_wait import JoinTimeouts, JoinWait, Workload

PEER = 4711


class World:
    """The processes of a publisher and its peer, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pid = PEER
        self.states = {PEER: "idle", os.getpid(): "idle"}
        self.cpu = dict.fromkeys(self.states, 0.0)
        self.own = Workload()

    def look(self, pid: int) -> ProcessState | None:
        state = self.states[pid]
        if state == "unseen":
            return None
        return ProcessState(self.now, self.cpu[pid], state in ("starved", "spinning"), state == "stopped")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for pid, state in self.states.items():
            self.cpu[pid] += {"spinning": 0.97, "starved": 0.01}.get(state, 0.0) * seconds

    def wait(
        self, timeout: float = 1.0, limit: float = 100.0, each: Callable[[], None] | None = None
    ) -> float:
        """Return how long a wait takes until it is over."""
        begun = self.now
        wait = JoinWait("/p", begun)
        while self.now < begun + limit:
            self.pass_time(0.005)
            if each is not None:
                each()
            self.own.check(False)
            if self.now >= wait.due and wait.is_over(self.now, timeout, self.own):
                return self.now - begun
        return limit


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(join_wait, "process_state", world.look)
    monkeypatch.setattr(join_wait, "listening_process", lambda _: world.pid)
    return world


@pytest.mark.parametrize("state", ["idle", "stopped", "spinning", "unseen"])
def test_who_does_not_run_or_runs_and_says_nothing_has_the_timeout(world: World, state: str) -> None:
    world.states[PEER] = state
    assert 1.0 <= world.wait() < 1.1


def test_a_peer_of_another_container_has_the_timeout(world: World) -> None:
    world.pid = 0
    assert 1.0 <= world.wait() < 1.1


@pytest.mark.parametrize("who", [PEER, os.getpid()], ids=["the peer", "this process"])
def test_while_either_end_waits_for_a_cpu_no_time_is_over(world: World, who: int) -> None:
    world.states[who] = "starved"
    assert world.wait(limit=25) == 25


def test_there_is_an_end_to_waiting_all_the_same(world: World) -> None:
    world.states[PEER] = "starved"
    assert 30 <= world.wait() < 31


def test_once_the_machine_has_time_again_so_has_the_peer(world: World) -> None:
    world.states[PEER] = "starved"

    def recover() -> None:
        if world.now >= 10:
            world.states[PEER] = "idle"

    assert 10 < world.wait(each=recover) < 12


def test_a_stopped_peer_gains_nothing_from_a_busy_machine(world: World) -> None:
    world.states |= {PEER: "stopped", os.getpid(): "starved"}
    assert 1.0 <= world.wait() < 1.1


def test_a_peer_that_goes_on_has_its_time_from_then(world: World) -> None:
    """A publisher waits on for a stopped `block` joiner, so it may be over and begin again."""
    wait, world.states[PEER] = JoinWait("/p", 0.0), "stopped"

    def over_by(end: float) -> float:
        while world.now < end:
            world.pass_time(0.005)
            world.own.check(False)
            if world.now >= wait.due and wait.is_over(world.now, 1.0, world.own) and not wait.stopped:
                return world.now
        return end

    assert over_by(3.0) == 3.0
    world.states[PEER] = "idle"
    assert 4.0 <= over_by(10.0) < 4.2


def test_a_process_that_oversleeps_waits_for_a_cpu(world: World) -> None:
    assert not world.own.check(False)
    assert world.own.check(True)
    assert (world.own.checks, world.own.busy) == (2, 1)


def test_no_timeout_at_all_waits_for_nobody(world: World) -> None:
    world.states[PEER] = "starved"
    assert world.wait(timeout=0) < 0.02


def test_patience_is_spent_once_and_comes_back_in_time() -> None:
    timeouts = JoinTimeouts(1.0, 5.0)
    assert timeouts.seconds(0, blocking=False) == 1.0
    assert timeouts.seconds(0, blocking=True) == 5.0
    timeouts.use_up(10)
    for now in (10, 40, 69):
        timeouts.use_up(now)  # of the next ones, who cost a moment
        assert timeouts.seconds(now, blocking=False) == 0.05
        assert timeouts.seconds(now, blocking=True) == 1.0
    assert timeouts.seconds(70, blocking=False) == 1.0


def test_a_moment_is_no_longer_than_the_timeout() -> None:
    timeouts = JoinTimeouts(0.01, 5.0)
    timeouts.use_up(1)
    assert timeouts.seconds(1, blocking=False) == 0.01


def test_one_after_the_other_the_silent_cost_their_timeout_once(world: World) -> None:
    timeouts, taken = JoinTimeouts(1.0, 5.0), []
    for state in ("stopped", "idle", "stopped", "spinning"):
        world.states[PEER] = state
        taken.append(world.wait(timeouts.seconds(world.now, blocking=False)))
        timeouts.use_up(world.now)
    assert 1.0 <= taken[0] < 1.1
    assert max(taken[1:]) < 0.15
