"""One act of a soak: who enters, and what befalls whom, by the dice."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from .cast import Process, wait_for
from .soak_events import TOOL_TOPIC, TOPICS, data_of, path_of

__all__ = ["Act"]

RATES = (150.0, 300.0, 600.0)
"""Events a second that a publisher sends, about."""

PAUSE_SECONDS = (0.02, 0.25)
# A stop is short, or longer than the join time-out.
SHORT_STOP, LONG_STOP = (0.02, 0.6), (1.2, 2.5)
SUB_COUNT = 20


class Act:
    """What happens to the processes that are on the bus besides the elders.

    Attributes:
        past: those that have ended, for the checker.
        problems: what was seen to be wrong.
        done: how often what was done.
    """

    def __init__(
        self,
        rng: random.Random,
        directory: Path,
        first: int,
        most: dict[str, int],
        environment: dict[str, str],
        elders: tuple[Process, ...] = (),
    ) -> None:
        """Prepare; processes are numbered after `first`, and there are at most `most` of a role."""
        self._rng, self._directory, self._next, self._most = rng, directory, first, most
        self._environment = environment
        self._elders = elders
        self._running: list[Process] = []
        self._leaving: list[Process] = []
        self._tools: list[Process] = []
        self._expected: dict[Process, set[int]] = {}
        self.past: list[Process] = []
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()

    def start(self, role: str) -> Process:
        """Start a publisher (`publish`) or a subscriber (`listen`)."""
        name = self._name()
        seed = str(self._rng.random())
        command = ["-m", "tests.faults.soak_peers", role, name, seed]
        if role == "publish":
            command += [str(self._directory), str(self._rng.choice(RATES))]
            self.done["publishers"] += 1
        return Process(name, role, command, self._directory, self._environment)

    def _name(self) -> str:
        self._next += 1
        return str(self._next)

    def play(self, seconds: float) -> None:
        """Let things happen for a while."""
        moves: dict[Callable[[], None], int] = {
            lambda: self._enter("publish"): 3,
            lambda: self._enter("listen"): 3,
            self._dismiss: 3,
            self._kill: 2,
            self._stop: 4,
            self._send: 1,
            self._sub: 1,
            self._ls: 1,
        }
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._attend()
            self._rng.choices([*moves], [*moves.values()])[0]()
            time.sleep(self._rng.uniform(*PAUSE_SECONDS))  # a rate

    def leave(self) -> None:
        """Let everybody end but the elders and one of each role, the last."""
        for process in (*self._elders, *self._running, *self._leaving, *self._tools):
            process.proceed()
        last = {process.fate.role: process for process in self._running}
        leaving = [process for process in self._running if process not in last.values()]
        # The publishers first, so that each subscription must get all of them to the end, or the subscribers.
        leaving.sort(key=lambda process: process.fate.role, reverse=self._rng.random() < 0.7)
        for _, group in groupby(leaving, key=lambda process: process.fate.role):
            self._wait([*group])
        self._wait(self._leaving)
        self._running, self._leaving = [*last.values()], []
        self.problems += wait_for(self._tools)
        for tool in self._tools:
            self._judge(tool)
        self._tools = []

    def _wait(self, leaving: list[Process]) -> None:
        for process in leaving:
            process.dismiss()
        self.problems += wait_for(leaving)
        self.done["ends"] += len(leaving)
        self.past += leaving

    def fall(self) -> None:
        """Kill whoever is left, when nobody is that would clean up after them."""
        for process in (*self._running, *self._leaving, *self._tools):
            process.kill()
            self.done["kills"] += 1
            self.past.append(process)

    def _attend(self) -> None:
        for process in (*self._elders, *self._running, *self._leaving, *self._tools):
            if process.stopped_until and time.monotonic() >= process.stopped_until:
                process.proceed()
        for process in [process for process in (*self._running, *self._leaving) if process.ended]:
            self._gone(process)
        for tool in self._tools:
            tool.look()
        for tool in [tool for tool in self._tools if tool.ended]:
            self._tools.remove(tool)
            self.problems += wait_for([tool])
            self._judge(tool)

    def _gone(self, process: Process) -> None:
        if process in self._running:
            self._running.remove(process)
            self.problems.append(f"{process} ended unasked: {process.said()}")
        else:
            self._leaving.remove(process)
            self.done["ends"] += 1
        self.problems += wait_for([process])
        self.past.append(process)

    def _enter(self, role: str) -> None:
        if sum(process.fate.role == role for process in self._running) < self._most[role]:
            process = self.start(role)
            self._running.append(process)
            if role == "listen":
                process.tell(f"play {self._directory}")

    def _dismiss(self) -> None:
        if self._running:
            process = self._rng.choice(self._running)
            self._running.remove(process)
            process.dismiss()
            self._leaving.append(process)

    def _kill(self) -> None:
        groups = [group for group in (self._running, self._leaving, self._tools) if group]
        if groups:
            group = self._rng.choice(groups)
            victim = group.pop(self._rng.randrange(len(group)))
            victim.kill()
            self.done["kills"] += 1
            if victim.fate.role != "ls":
                self.past.append(victim)

    def _stop(self) -> None:
        there = (*self._elders, *self._running, *self._leaving, *self._tools)
        going = [process for process in there if not process.stopped_until]
        if going:
            spans = self._rng.choice((SHORT_STOP, SHORT_STOP, LONG_STOP))
            self._rng.choice(going).stop(self._rng.uniform(*spans))
            self.done["stops"] += 1

    def _tool(self, role: str, *words: str, name: str = "") -> Process:
        command = ["-m", "zbus", role, *words]
        tool = Process(name or self._name(), role, command, self._directory, self._environment)
        self._tools.append(tool)
        self.done["tools"] += 1
        return tool

    def _send(self) -> None:
        name = self._name()
        data = json.dumps(data_of(int(name), 1))
        self._tool("send", *TOPICS[TOOL_TOPIC], path_of(int(name), 1), data, name=name)
        self.done["publishers"] += 1

    def _sub(self) -> None:
        tool = self._tool("sub", "**", "--json", "--count", str(SUB_COUNT), "--timeout", "5")
        tool.fate.count = SUB_COUNT

    def _ls(self) -> None:
        there = {process.fate.pid for process in (*self._elders, *self._running) if process.ready}
        self._expected[self._tool("ls", "--json")] = there

    def _judge(self, tool: Process) -> None:
        """See whether a tool that has ended did what it is for."""
        said = tool.said()
        if tool.fate.role == "send":
            tool.fate.gave_up = "did not finish joining" in said
            if tool.code == 0:
                self.past.append(tool)
            # A `block` subscriber that is stopped may make it wait in vain. Its event went to nobody then.
            elif "went to nobody" not in said:
                self.problems.append(f"{tool} failed: {said}")
        elif tool.fate.role == "sub":
            self.past.append(tool)
            if tool.code not in (0, 1):
                self.problems.append(f"{tool} failed: {said}")
            tool.fate.lost = "events were lost" in said
        else:
            self._judge_ls(tool, said)

    def _judge_ls(self, tool: Process, said: str) -> None:
        expected = self._expected.pop(tool)
        if tool.code:
            self.problems.append(f"{tool} failed: {said}")
            return
        listed = {peer["pid"] for peer in json.loads(tool.output()) if peer["alive"]}
        staying = {process.fate.pid for process in (*self._elders, *self._running)}
        if missing := expected & staying - listed:
            self.problems.append(f"{tool} does not show processes {sorted(missing)}")
