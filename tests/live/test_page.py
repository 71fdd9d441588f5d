"""The examples of the original's page, ported line by line: the module reads the same in Python."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import zbus as events  # local events = require("events")
from zbus import errors

logger = logging.getLogger("page")


@pytest.fixture(autouse=True)
def default_bus(zbus_dir: str) -> Iterator[None]:
    yield
    events.close()


def test_subscribing_and_handling_events() -> None:
    handled: list[events.Event] = []
    handle_event = handled.append

    # all events of the orders' subsystems
    sub = events.subscribe("orders.*")
    # one kind of event
    users = events.subscribe("users", "user.created")
    # all events of a system
    payments = events.subscribe("payments")

    def work() -> None:
        ch = sub.channel()
        while True:
            evt, ok = ch.receive()
            if not ok:
                break
            assert evt is not None
            logger.info(
                "Received event", extra={"system": evt.system, "kind": evt.kind, "event_path": evt.path}
            )
            handle_event(evt)

    worker = threading.Thread(target=work)
    worker.start()
    events.send("orders.eu", "order.created", "/orders/1")
    events.send("users", "user.created", "/users/1")
    events.send("users", "user.deleted", "/users/1")
    events.send("payments", "payment.completed", "/payments/1")
    assert users.channel().receive(timeout=30)[0].kind == "user.created"
    assert payments.channel().receive(timeout=30)[0].path == "/payments/1"
    while not handled:
        worker.join(0.01)
    sub.close()
    worker.join(5)
    assert not worker.is_alive()
    assert [(evt.system, evt.path) for evt in handled] == [("orders.eu", "/orders/1")]


def test_sending_events() -> None:
    sub = events.subscribe("*")
    user = SimpleNamespace(id="7", email="a@example.org")
    payment = SimpleNamespace(id="9", order_id="123", amount=99.99, method="card")

    # an order was created
    events.send(
        "orders", "order.created", "/orders/123", {"order_id": "123", "customer_id": "456", "total": 99.99}
    )
    # a user registered
    events.send(
        "users",
        "user.registered",
        "/users/" + user.id,
        {"user_id": user.id, "email": user.email, "created_at": "2026-11-24T12:00:00+00:00"},
    )
    # a payment was completed
    events.send(
        "payments",
        "payment.completed",
        "/payments/" + payment.id,
        {
            "payment_id": payment.id,
            "order_id": payment.order_id,
            "amount": payment.amount,
            "method": payment.method,
        },
    )
    # without data
    events.send("system", "heartbeat", "/health")

    got = [sub.channel().receive(timeout=30)[0] for _ in range(4)]
    assert [evt.system for evt in got if evt] == ["orders", "users", "payments", "system"]
    assert got[0].data["total"] == 99.99
    assert got[1].path == "/users/7"
    assert got[2].data["method"] == "card"
    assert got[3].data is None


def test_the_channel_and_the_fields_of_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    sub = events.subscribe("orders")
    events.send("orders", "order.created", "/orders/123", {"total": 1})

    ch = sub.channel()
    evt, ok = ch.receive()
    if ok:
        print("System:", evt.system)
        print("Kind:", evt.kind)
        print("Path:", evt.path)
        print("Data:", evt.data)

    assert capsys.readouterr().out.splitlines() == [
        "System: orders",
        "Kind: order.created",
        "Path: /orders/123",
        "Data: {'total': 1}",
    ]


def test_closing_a_subscription() -> None:
    sub = events.subscribe("orders")
    sub.close()
    assert sub.channel().receive() == (None, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: events.subscribe(""), "system pattern is required"),
        (lambda: events.send("", "k", "/p"), "system is required"),
        (lambda: events.send("s", "", "/p"), "kind is required"),
        (lambda: events.send("s", "k", ""), "path is required"),
    ],
)
def test_the_errors_of_the_page(call, message: str) -> None:
    with pytest.raises(events.Error) as caught:
        call()
    assert caught.value.kind == errors.INVALID
    assert str(caught.value) == message
    assert caught.value.retryable is False


def test_the_default_bus_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, zbus_dir: str) -> None:
    monkeypatch.setenv("ZBUS_BUS", "shop")
    sub = events.subscribe("a")
    with events.Bus("shop", dir=zbus_dir) as other:
        other.send("a", "b", "/1")
    assert sub.channel().receive(timeout=30)[1]
    assert events.send_many("a", "b", [("/2", None)]) == 1
    events.close()
    events.close()
    events.send("a", "b", "/reopened")
