"""Families of metrics as the text that Prometheus reads, once or over HTTP. It needs prometheus-client."""

from __future__ import annotations

import errno
import socketserver
import sys
from collections.abc import Callable, Iterable, Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import click
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

import zbus

from ..observe.metrics import Family

__all__ = ["server", "text"]

_ADDRESS = "127.0.0.1"
# A page of another site can have its name resolve to this machine. Its requests bear that name.
_OWN_NAMES = (_ADDRESS, "localhost")
# Who connects and sends nothing holds up a thread for so long.
_REQUEST_SECONDS = 10.0

Collect = Callable[[], Iterable[Family]]


class _Families(Collector):
    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._collect())


def _metric(family: Family) -> Metric:
    if family.type == "info":
        info = InfoMetricFamily(family.name, family.help)
        for labels in family.samples:
            info.add_metric([], dict(zip(family.labels, labels, strict=True)))
        return info
    make = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = make(family.name, family.help, labels=family.labels)
    for labels, value in family.samples.items():
        metric.add_metric(labels, value)
    return metric


def _registry(collect: Collect) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(collect))
    return registry


def text(families: Iterable[Family]) -> str:
    """Return OpenMetrics."""
    rows = [*families]
    written: bytes = generate_latest(_registry(lambda: rows))  # type: ignore[no-untyped-call]
    return written.decode()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking the name service what this machine is called: that may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _ADDRESS, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away or sent no request; other exceptions are shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: one line a scrape would be all there is."""


def server(port: int, collect: Collect) -> WSGIServer:
    """Return a server on a port of this machine; call its `serve_forever`.

    Raises:
        click.ClickException: the port is in use, or not for this user.
    """
    try:
        return make_server(_ADDRESS, port, _guarded(collect), server_class=_Server, handler_class=_Handler)
    except OSError as error:
        reasons = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not for this user"}
        reason = reasons.get(error.errno or 0, f"cannot be used ({error.strerror})")
        raise click.ClickException(f"port {port} of {_ADDRESS} {reason}: give another --port") from error


def _guarded(collect: Collect) -> WSGIApplication:
    """Answer requests that name this machine, also if the bus cannot be looked at just now."""
    rows: WSGIApplication = make_wsgi_app(_registry(collect))

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        if str(environ.get("HTTP_HOST", _ADDRESS)).partition(":")[0] not in _OWN_NAMES:
            start_response("403 Forbidden", plain)
            return [f"ask for {_ADDRESS}\n".encode()]
        try:
            return rows(environ, start_response)
        except zbus.Error as error:
            start_response("503 Service Unavailable", plain)
            return [f"{error.message}\n".encode()]

    return answer
