"""Many publishers, many channels: all delivered, in order of each publisher."""

from __future__ import annotations

import random
import threading

import pytest

import zbus

from .process import Spawn


@pytest.mark.timeout(180)
def test_50_publishers_to_100_channels_over_10_systems_and_5_kinds(spawn: Spawn) -> None:
    # 5 processes of 10 threads; 4 processes of 25 channels would see the same, one of 100 is the harder case.
    audience = spawn("audience", 100, 50 * 1000).ready()
    crowds = [spawn("crowd", index * 10, 10, 1000).ready() for index in range(5)]
    for worker in crowds:
        worker.tell("go")
    for worker in crowds:
        assert worker.hear()["done"]
    report = audience.hear(150)
    assert report["counts"] == [1000] * 50 + [5000] * 50
    assert report["disorder"] == 0
    assert report["lost"] == 0


def test_a_burst_of_10_000_to_10_subscribers_is_delivered_whole(bus: zbus.Bus) -> None:
    subs = [bus.subscribe("burst") for _ in range(10)]
    for number in range(10_000):
        bus.send("burst", "b", "/1", number)
    for sub in subs:
        events = iter(sub)
        assert [next(events).data for _ in range(10_000)] == list(range(10_000))
        assert sub.lost == 0


def test_subscribe_and_close_at_random_while_publishers_run(bus: zbus.Bus) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            bus.send(f"s{number % 3}", "k", "/1", number)

    def churn(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                sub = bus.subscribe(
                    rng.choice(("s0", "s1", "*", "s2")), overflow=rng.choice(("drop", "block"))
                )
                events = iter(sub)
                numbers = [(next(events).system, evt.data) for evt in (next(events),)]
                assert numbers
                sub.close()
        except BaseException as error:
            failures.append(error)

    publisher = threading.Thread(target=publish)
    publisher.start()
    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    stop.set()
    publisher.join(10)
    assert not publisher.is_alive()
    assert failures == []
