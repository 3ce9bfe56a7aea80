"""What the process measures of itself, for Prometheus; off unless METRICS_PORT is set.

Names and labels are those of OpenTelemetry's semantic conventions (HTTP server, database client),
as Prometheus spells them. A route is a label by its template, so there are as many series as the
contract has operations, however many users and tasks there are.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,  # pyright: ignore[reportUnknownVariableType]
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.logging import log_writer

# Seconds: from a read that PostgreSQL has in memory to the limit for a request at the database.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# Of the server of the metrics. A scrape takes milliseconds, and few ask.
MAX_THREADS = 8
SCRAPE_TIMEOUT = 10.0


class PoolStats(NamedTuple):
    """How many connections to the database there are; asked only when the metrics are."""

    in_use: Callable[[], int]
    idle_count: Callable[[], int]
    max_size: Callable[[], int]


class Metrics:
    """The figures of one process."""

    def __init__(self, pool: PoolStats) -> None:
        """Take the pool whose connections are counted."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "Duration of requests, by their end.",
            ["http_request_method", "http_route", "http_response_status_code"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._active = Gauge(
            "http_server_active_requests",
            "Requests that are being served.",
            registry=self.registry,
        )
        connections = Gauge(
            "db_client_connection_count",
            "Connections to the database.",
            ["db_client_connection_state"],
            registry=self.registry,
        )
        connections.labels("used").set_function(pool.in_use)
        connections.labels("idle").set_function(pool.idle_count)
        Gauge(
            "db_client_connection_max",
            "Connections to the database that may be open.",
            registry=self.registry,
        ).set_function(pool.max_size)
        self.registry.register(
            _FunctionCounter(
                "log_lines_dropped",
                "Log lines that could not be written.",
                lambda: log_writer.dropped,
            )
        )
        self._series: dict[tuple[str, str | None, int], Histogram] = {}

    def register_rejections(self, rejected: Callable[[], int]) -> None:
        """Take what tells how many requests were refused for load so far."""
        words = "Requests that were refused since others were being served."
        self.registry.register(_FunctionCounter("http_server_rejected_requests", words, rejected))

    def request_started(self) -> None:
        """Count a request as being served."""
        self._active.inc()

    def request_finished(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count it as served; `route` is a template, None for a path that is no operation's."""
        self._active.dec()
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._duration.labels(method, route or "", status)
        series.observe(seconds)

    @contextmanager
    def serve(self, listener: socket.socket) -> Generator[None]:
        """Answer scrapes on a bound socket, in threads, until the end. Raises OSError."""
        server = _Server(listener, make_wsgi_app(self.registry))
        thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _FunctionCounter(Collector):
    """A number that is counted elsewhere."""

    def __init__(self, name: str, documentation: str, count: Callable[[], int]) -> None:
        self.name = name
        self.documentation = documentation
        self.count = count

    def collect(self) -> Iterable[Metric]:
        """Ask when the metrics are asked for."""
        yield CounterMetricFamily(self.name, self.documentation, self.count())


class _Server(ThreadingMixIn, WSGIServer):
    """Serves WSGI in threads, with the limits that prometheus_client's own server lacks.

    There each silent connection keeps a thread for as long as it stays open.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listener: socket.socket, app: Any) -> None:  # noqa: ANN401 - a WSGI application
        address = listener.getsockname()
        super().__init__(address[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[:2]
        self.setup_environ()
        self.set_app(app)
        self.server_activate()
        self._since: dict[socket.socket, float] = {}

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002
        """Whether one more connection is served; one that is not is closed."""
        return len(self._since) < MAX_THREADS

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve a connection in a thread."""
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:  # noqa: ANN401
        """Forget a connection."""
        self._since.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """End what has taken too long; called every half second, and after each connection."""
        now = time.monotonic()
        for request, since in list(self._since.items()):
            if now - since > SCRAPE_TIMEOUT:
                with suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing of a client that has gone; the application answers its own faults."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Write no line for a scrape."""
