"""Prometheus metrics of the process; disabled unless METRICS_PORT is set.

Names and labels follow OpenTelemetry's semantic conventions for HTTP servers and database clients.
The route label is the route template, so the number of series does not grow with users and tasks.
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

# Seconds: from a cached read to the longest time that a request may wait for the database. Requests
# that wait for a change take up to 30 s. Their exact duration is of no interest.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# Limits of the metrics server. A scrape takes milliseconds, and there are few scrapers.
MAX_THREADS = 8
SCRAPE_TIMEOUT = 10.0  # seconds


class PoolStats(NamedTuple):
    """Callables that return the pool's numbers of connections; called at each scrape."""

    in_use: Callable[[], int]
    idle_count: Callable[[], int]
    max_size: Callable[[], int]


class Metrics:
    """Metrics of one process."""

    def __init__(self, pool: PoolStats) -> None:
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
        """Register the counter of requests rejected by the concurrency limit."""
        documentation = "Requests that were refused since others were being served."
        self.registry.register(
            _FunctionCounter("http_server_rejected_requests", documentation, rejected)
        )

    def request_started(self) -> None:
        """Count a request as active."""
        self._active.inc()

    def request_finished(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Record a finished request; `route` is a template, or None for an unknown path."""
        self._active.dec()
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._duration.labels(method, route or "", status)
        series.observe(seconds)

    @contextmanager
    def serve(self, listener: socket.socket) -> Generator[None]:
        """Serve scrapes on a bound socket, in threads, until the end of the block.

        Raises OSError if the socket cannot listen.
        """
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
    """A counter whose value a function returns."""

    def __init__(self, name: str, documentation: str, count: Callable[[], int]) -> None:
        self.name = name
        self.documentation = documentation
        self.count = count

    def collect(self) -> Iterable[Metric]:
        """Yield the current value."""
        yield CounterMetricFamily(self.name, self.documentation, self.count())


class _Server(ThreadingMixIn, WSGIServer):
    """Threaded WSGI server with limits on threads and time.

    prometheus_client's server has none: each idle connection holds a thread.
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
        self._started: dict[socket.socket, float] = {}

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002
        """Return whether to serve a connection; the caller closes a rejected one."""
        return len(self._started) < MAX_THREADS

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve a connection in a thread."""
        self._started[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:  # noqa: ANN401
        """Close a connection and release its slot."""
        self._started.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """Close connections after SCRAPE_TIMEOUT; called every 0.5 s and after each connection."""
        now = time.monotonic()
        for request, started in list(self._started.items()):
            if now - started > SCRAPE_TIMEOUT:
                with suppress(OSError):  # already disconnected
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Do not log disconnected clients; the WSGI application handles its own errors."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - overridden parameter
        """Do not log scrapes."""
