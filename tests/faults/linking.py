"""Fault 23: two machines and a NATS server between them, while the server, the network and the links fail.

One ledger for all of it: what the other machine has got, and what it was told is lost, is all that was sent.
Only a killed link may lose events, and only those that `link_ledger` excuses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.live.nats import PROGRAM, add_stream, api
from tests.live.network import network

from .harness import Row, Stage, until
from .link_ledger import LIMIT, Losses, Reader, Sender, explain
from .link_scene import Scene

__all__ = ["links_killed"]

_LONG = 30.0


@dataclass(frozen=True)
class _Form:
    """One form of the fault.

    Attributes:
        fault: what it is called.
        actions: what is done, at random.
        first: what is done before, in this order; a quick run does nothing else.
        seconds: for how long, in a full run.
        long: what is done for 30 s first, in a full run.
        spill: whether the link out has a spill file; else it holds publishers back.
        apart: whether the server is in a network of its own.
    """

    fault: str
    actions: tuple[Callable[[Scene], None], ...]
    first: tuple[Callable[[Scene], None], ...]
    seconds: int
    long: Callable[[Scene, float], None]
    spill: bool = True
    apart: bool = False


_KILLS = (
    Scene.server_killed,
    Scene.server_stopped,
    Scene.link_out_killed,
    Scene.link_in_killed,
    Scene.link_out_killed_while_the_server_is_away,
)
_FORMS = (
    _Form(
        "SIGKILL and SIGSTOP a NATS server and the links between two machines, `spill`",
        _KILLS,
        _KILLS,
        600,
        Scene.server_stopped,
    ),
    _Form(
        "the same, `block`",
        _KILLS,
        (Scene.link_out_killed_while_the_server_is_away,),
        120,
        Scene.server_stopped,
        spill=False,
    ),
    _Form(
        "SIGKILL and SIGSTOP the server only, `block`",
        (Scene.server_killed, Scene.server_stopped),
        (Scene.server_killed, Scene.server_stopped),
        120,
        Scene.server_stopped,
        spill=False,
    ),
    _Form(
        "cut the network to the server: connections hang, `block`",
        (Scene.network_cut, Scene.network_cut_for_a_moment),
        (Scene.network_cut,),
        120,
        Scene.network_cut,
        spill=False,
        apart=True,
    ),
)


def links_killed(stage: Stage) -> Iterator[Row]:
    for form in _FORMS:
        row = stage.row(form.fault)
        if PROGRAM is None:
            yield row.skip("needs nats-server")
            continue
        here = stage.apart()
        net = here.enter(network()) if form.apart else None
        if form.apart and net is None:
            yield row.skip("needs root, and a network namespace of one's own")
            continue
        _run(row, Scene(here, spill=form.spill, network=net), form)
        yield row


def _run(row: Row, scene: Scene, form: _Form) -> None:
    sender = Sender(scene.machines / "out", scene.stage.random)
    reader = Reader(scene.machines / "into")
    try:
        scene.server.start()
        asyncio.run(add_stream(scene.server))
        scene.start("into")
        until(lambda: asyncio.run(_consumers(scene)), LIMIT, "the link in listens")
        scene.start("out")
        reader.start()
        sender.start()
        _disturb(scene, form, lambda: _continue(sender, reader))
        sender.stopping.set()
        sender.join(LIMIT)
        until(lambda: reader.accounted >= len(sender.sent), LIMIT, "all that was sent is accounted for")
        stored = asyncio.run(api(scene.server, "STREAM.INFO.zbus"))["state"]["messages"]
    finally:
        for thread in (sender, reader):
            thread.stopping.set()
            if thread.is_alive():
                thread.join(LIMIT)
        scene.end()
    _judge(row, scene, sender, reader, stored)


async def _consumers(scene: Scene) -> object:
    return (await api(scene.server, "CONSUMER.NAMES.zbus")).get("consumers")


def _continue(sender: Sender, reader: Reader) -> None:
    """Wait until something has arrived that was not sent before."""
    before = len(sender.sent)
    until(lambda: reader.last > before, LIMIT, "events arrive again")


def _disturb(scene: Scene, form: _Form, proceed: Callable[[], None]) -> None:
    """Do what a form does, in turn and then at random; see that events arrive again each time."""
    rng = scene.stage.random
    proceed()  # what is lost before anything of a topic has arrived cannot be told
    deadline = time.monotonic() + scene.stage.size(form.seconds, 0)
    if not scene.stage.quick:
        scene.act(form.long, scene, _LONG)
    for action in form.first:
        scene.act(action, scene)
        proceed()
    while time.monotonic() < deadline:
        time.sleep(rng.uniform(0.1, 4.0))
        scene.act(rng.choice(form.actions), scene)
        proceed()


def _judge(row: Row, scene: Scene, sender: Sender, reader: Reader, stored: int) -> None:
    sent, got, told = len(sender.sent), reader.got, reader.told
    row.done = ", ".join(f"{name} {count} times" for name, count in scene.done.items())
    losses = explain(sender.sent, told, scene.lives)
    row.lost = f"{len(told):,} of {sent:,}, all told"
    if told:
        row.lost += (
            f": {len(losses.between):,} sent while no link ran, {len(losses.held):,} held by killed ones"
        )
    row.equal("got and told lost", got | told, {*range(1, sent + 1)})
    row.equal("got and told lost at once", len(got & told), 0)
    row.equal("told lost twice", reader.told_twice, 0)
    row.equal("not what was sent", reader.wrong, 0)
    row.equal("out of order", reader.backwards, 0)
    row.equal("stored twice, or not told of", stored, len(got))
    row.equal("lost while a link ran", sorted(losses.unexplained), [])
    row.equal("came again", reader.repeated, 0)
    _judge_held(row, scene, losses)


def _judge_held(row: Row, scene: Scene, losses: Losses) -> None:
    if len(scene.lives) == 1:
        row.equal("lost though no link was killed", (len(losses.between), len(losses.held)), (0, 0))
    else:
        row.show(f"a killed link held {losses.most:,} at most, sent up to {losses.longest:.3g} s before")
