"""A full queue: `drop` counts exactly, `block` loses nothing and holds nobody but its publishers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import pytest

import zbus

from .process import Spawn
from .quiet import fill, quiet, read_all


def gap_total(gaps: list[zbus.Gap]) -> int:
    return sum(gap.events for gap in gaps)


def test_drop_received_and_lost_add_up_exactly(bus: zbus.Bus) -> None:
    told: list[zbus.Gap] = []
    sub = bus.subscribe("a", capacity=100, on_gap=told.append)
    channel = sub.channel()
    sent = 0
    received: list[int] = []
    for burst in (50, 5_000, 20_000, 10, 300):
        for _ in range(burst):
            sent += 1
            bus.send("a", "b", "/1", sent)
        received += [evt.data for evt in read_all(sub)]
    bus.send("a", "b", "/1", sent + 1)  # shows what was lost at the tail
    received.append(channel.receive(timeout=30)[0].data)
    assert len(received) + channel.lost == sent + 1
    assert channel.lost > 0
    assert received == sorted(set(received))
    missing = sorted(set(range(1, sent + 2)) - set(received))
    assert [n for gap in told for n in range(gap.first, gap.last + 1)] == missing
    assert list(channel.gaps) == told
    assert {(gap.system, gap.kind) for gap in told} == {("a", "b")}
    assert len({gap.origin for gap in told}) == 1


def test_drop_counts_per_publisher_and_topic(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("**", capacity=64)
    sent: Counter[tuple[str, str]] = Counter()
    senders = [zbus.Bus(dir=zbus_dir) for _ in range(3)]
    for number in range(3_000):
        for index, sender in enumerate(senders):
            if number >= index * 500:  # the later ones begin when the queue is full
                topic = (f"s{number % 2}", f"k{index}")
                sender.send(*topic, "/x")
                sent[topic] += 1
    received = Counter((evt.system, evt.kind) for evt in read_all(sub))
    for sender in senders:
        for system, kind in list(sent):
            if kind == f"k{senders.index(sender)}":
                sender.send(system, kind, "/last")
                sent[system, kind] += 1
    received += Counter((evt.system, evt.kind) for evt in read_all(sub))
    for key, count in sent.items():
        lost = gap_total([gap for gap in sub.channel().gaps if (gap.system, gap.kind) == key])
        assert received[key] + lost == count, key
    assert sub.lost == gap_total(list(sub.channel().gaps)) > 0
    for sender in senders:
        sender.close()


def test_a_late_join_a_filter_and_a_restart_are_no_loss(bus: zbus.Bus, zbus_dir: str) -> None:
    bus.send("a", "b", "/1")
    bus.send("a", "b", "/2")
    sub = bus.subscribe("a", "(b|c)")
    for kind in ("b", "x", "c", "x", "b"):
        bus.send("a", kind, "/3")
    for _ in range(2):
        with zbus.Bus(dir=zbus_dir) as other:
            other.send("a", "b", "/4")
    kinds = [sub.channel().receive(timeout=30)[0].kind for _ in range(5)]
    assert kinds == ["b", "c", "b", "b", "b"]
    assert sub.lost == 0


def test_a_batch_that_is_dropped_counts_every_event_in_it(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a", capacity=10)
    for _ in range(500):
        bus.send_many("a", "b", [("/1", 1), ("/2", 2), ("/3", 3)])
    received = len(read_all(sub))
    bus.send("a", "b", "/last")
    sub.channel().receive(timeout=1.0)
    assert received + 1 + sub.lost == 1501
    assert sub.lost % 3 == 0
    assert sub.lost > 0


def test_gaps_are_logged_at_a_limited_rate(bus: zbus.Bus, caplog: pytest.LogCaptureFixture) -> None:
    sub = bus.subscribe("a", capacity=2)
    for _ in range(5):
        for _ in range(5_000):
            bus.send("a", "b", "/1")
        for _ in range(2):
            sub.channel().receive(timeout=1.0)
    while sub.lost == 0:
        bus.send("a", "b", "/1")
        sub.channel().receive(timeout=1.0)
    assert sum("lost" in record.message for record in caplog.records) == 1


def test_a_stopped_reader_process_loses_exactly_what_it_reports(spawn: Spawn, bus: zbus.Bus) -> None:
    reader = spawn("reader", "stream", "drop", 1000).ready()
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            bus.send("stream", "tick", "/1", sent)

    send(10)
    reader.tell(10)
    assert reader.hear()["received"] == 10
    reader.signal(signal.SIGSTOP)
    send(200_000)
    reader.signal(signal.SIGCONT)
    reader.tell(sent + 1)
    # Capacity comes back when the reader has read; from then on an event gets through.
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            send(1)
            stop.wait(0.001)

    pulse = threading.Thread(target=go_on)
    pulse.start()
    report = reader.hear()
    stop.set()
    pulse.join()
    last = report["gaps"][-1][4]
    assert report["lost"] > 0
    assert report["disorder"] == 0
    assert sum(gap[4] - gap[3] + 1 for gap in report["gaps"]) == report["lost"]
    # All that was sent up to the last one read is accounted for.
    reader.tell(sent)
    bus.send("stream", "tick", "/1", sent + 1)
    report = reader.hear()
    assert last <= sent
    assert report["received"] + report["lost"] in (sent, sent + 1)


def test_all_drop_channels_of_a_process_share_its_queue_in_a_publisher(spawn: Spawn, zbus_dir: str) -> None:
    reader = spawn("listener", "busy", "drop").ready()
    reader.tell("calm")
    reader.ready()
    with zbus.Bus(dir=zbus_dir, capacity=50) as sender:
        for system in ("busy", "calm"):
            sender.send(system, "b", "/1", system)
        reader.tell(2)
        assert reader.hear()["gaps"] == []
        reader.signal(signal.SIGSTOP)
        for _ in range(40):  # more than the kernel holds, and never more at a time than the queue
            for _ in range(50):
                sender.send("busy", "b", "/1", "x" * 500)
            while not quiet(reader.process.pid):
                continue
        sender.send("calm", "b", "/1")
        reader.signal(signal.SIGCONT)
        reader.tell(2003)
        facts = reader.hear()
    assert facts["gaps"][-1] == [2, 2]
    assert len(facts["numbers"]) + sum(last - first + 1 for first, last in facts["gaps"]) == 2003


def test_block_loses_nothing(spawn: Spawn, bus: zbus.Bus) -> None:
    reader = spawn("reader", "stream", "block", 100).ready()
    total = 20_000
    reader.signal(signal.SIGSTOP)
    threading.Timer(0.3, reader.signal, [signal.SIGCONT]).start()
    reader.tell(total)
    for number in range(1, total + 1):
        bus.send("stream", "tick", "/1", number, timeout=30.0)
    report = reader.hear()
    assert (report["received"], report["lost"], report["disorder"]) == (total, 0, 0)


def fill_stream(bus: zbus.Bus, *others: int) -> int:
    """Send until a `block` subscriber, perhaps in another process, is full; return how many were accepted."""
    return fill(lambda number: bus.send("stream", "tick", "/1", number, timeout=0.05), *others)


def send_timeouts() -> int:
    """Return how often this process found no room in time."""
    [mine] = [peer for peer in zbus.peers() if peer.pid == os.getpid() and peer.role == "member"]
    return mine.counters["send_timeouts"]


def test_a_stopped_block_subscriber_makes_send_raise_in_time_and_its_death_frees(
    spawn: Spawn, zbus_dir: str
) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        stuck = spawn("idle_subscriber", "stream", "block", 100).ready()
        beside = bus.subscribe("stream", capacity=1_000_000)
        bus.send("hello", "b", "/joined")
        stuck.signal(signal.SIGSTOP)
        accepted = fill_stream(bus, stuck.pid)
        before = send_timeouts()
        start = time.monotonic()
        with pytest.raises(zbus.Timeout, match="block") as caught:
            bus.send("stream", "tick", "/1", timeout=0.5)
        assert 0.5 <= time.monotonic() - start < 5
        assert caught.value.retryable
        assert caught.value.kind == zbus.errors.TIMEOUT
        # What was refused reached nobody; what was accepted reached the `drop` one in full.
        for number in range(1, accepted + 1):
            assert beside.channel().receive(timeout=30)[0].data == number
        assert read_all(beside) == []
        freed = threading.Timer(0.3, stuck.process.kill)
        freed.start()
        start = time.monotonic()
        bus.send("stream", "tick", "/1", accepted + 1, timeout=30.0)
        assert time.monotonic() - start < 5
        assert beside.channel().receive(timeout=30)[0].data == accepted + 1
        assert beside.lost == 0
        freed.join()
        assert before > 0
        assert send_timeouts() == before + 1


def test_a_full_block_channel_holds_no_other_channel_of_its_process(bus: zbus.Bus, zbus_dir: str) -> None:
    full = bus.subscribe("stream", overflow="block", capacity=10)
    free = bus.subscribe("other", overflow="block")
    with zbus.Bus(dir=zbus_dir, capacity=10) as sender:
        fill_stream(sender)
        for number in range(2_000):
            sender.send("other", "b", "/1", number)
            assert free.channel().receive(timeout=30)[0].data == number
        late = bus.subscribe("third")  # a full channel does not hold a join either
        sender.send("third", "b", "/1")
        assert late.channel().receive(timeout=30)[1]
        full.close()


def test_a_full_block_channel_that_closes_frees_its_publisher_and_keeps_what_it_had(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    full = bus.subscribe("stream", overflow="block", capacity=10)
    with zbus.Bus(dir=zbus_dir, capacity=10) as sender:
        accepted = fill_stream(sender)
        threading.Timer(0.1, full.close).start()
        sender.send("stream", "tick", "/1", timeout=30.0)
    kept = [evt.data for evt in full]
    assert kept == list(range(1, len(kept) + 1))
    assert 1 <= len(kept) <= accepted


def close_and_read(sender: zbus.Bus, sub: zbus.Subscription, accepted: int) -> None:
    """Close `sender` while `sub` reads all that was accepted."""
    closing = threading.Thread(target=sender.close)
    closing.start()
    for number in range(1, accepted + 1):
        evt, _ = sub.channel().receive(timeout=10.0)
        assert evt is not None
        assert evt.data == number
    closing.join(10)
    assert not closing.is_alive()
    assert sub.lost == 0


@pytest.mark.parametrize("queue", [5, 20, 1000])
def test_a_closing_publisher_hands_over_what_a_full_subscriber_has_no_room_for(
    bus: zbus.Bus, zbus_dir: str, queue: int
) -> None:
    """Its queue, its engine's batch, the kernel's buffer and ours are full when it closes."""
    sub = bus.subscribe("stream", overflow="block", capacity=10)
    sender = zbus.Bus(dir=zbus_dir, capacity=queue, linger=30.0)
    close_and_read(sender, sub, fill_stream(sender))


def test_a_closing_publisher_hands_over_a_burst(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("stream", capacity=100_000)
    sender = zbus.Bus(dir=zbus_dir, linger=30.0)
    for number in range(1, 50_001):
        sender.send("stream", "tick", "/1", number)
    close_and_read(sender, sub, 50_000)


def test_linger_bounds_the_time_that_close_takes(bus: zbus.Bus, zbus_dir: str) -> None:
    _held = bus.subscribe("stream", overflow="block", capacity=10)
    sender = zbus.Bus(dir=zbus_dir, linger=0.3)
    fill_stream(sender)
    start = time.monotonic()
    sender.close()
    assert 0.3 <= time.monotonic() - start < 5


def test_threads_that_send_to_a_full_subscriber_each_keep_their_own_time(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    full = bus.subscribe("stream", overflow="block", capacity=10)
    with zbus.Bus(dir=zbus_dir, capacity=10, send_timeout=None) as sender:
        fill_stream(sender)
        patient = threading.Thread(target=sender.send, args=("stream", "tick", "/for-ever"))
        patient.start()
        start = time.monotonic()
        with pytest.raises(zbus.Timeout):
            sender.send("stream", "tick", "/1", timeout=0.2)
        assert time.monotonic() - start < 5
        assert patient.is_alive()
        for evt in full:
            if evt.path == "/for-ever":
                break
        patient.join(10)
        assert not patient.is_alive()


@pytest.mark.timeout(180)
def test_a_stopped_drop_subscriber_makes_nobody_grow(spawn: Spawn, zbus_dir: str) -> None:
    """30 s at 4,000 events/s of 1 KiB are 117 MiB; a capacity of 1,000 is 1 MiB for each queue on the way."""
    stopped = spawn("idle_subscriber", "stream", "drop", 1000).ready()
    torrent = spawn("torrent", 30, 4000, 1024).ready()
    stopped.tell("how large")
    before = stopped.hear()["rss"]
    torrent.tell("go")
    # For the first half the process is stopped, so that the publisher drops; for the second only its reader
    # is idle, so that its forwarder does.
    stopped.signal(signal.SIGSTOP)
    threading.Timer(15, stopped.signal, [signal.SIGCONT]).start()
    report = torrent.hear()
    assert report["sent"] > 60_000
    assert report["grew_mib"] < 8
    with open(f"/proc/{stopped.pid}/statm") as file:
        after = int(file.read().split()[1]) * 4096 / 2**20
    assert after - before < 10
