"""What the process measures of itself, for Prometheus; off unless METRICS_PORT is set.

Names and labels are those of OpenTelemetry's semantic conventions (HTTP server, database client),
as Prometheus spells them. A route is a label by its template, so there are as many series as the
contract has operations, however many users and tasks there are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import NamedTuple
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# Seconds: from a read that PostgreSQL has in memory to the limit for a request at the database.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Pool(NamedTuple):
    """How many connections to the database there are; asked only when the metrics are."""

    used: Callable[[], int]
    idle: Callable[[], int]
    most: Callable[[], int]


class Metrics:
    """The figures of one process."""

    def __init__(self, pool: Pool) -> None:
        """Take the pool whose connections are counted."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._seconds = Histogram(
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
        connections.labels("used").set_function(pool.used)
        connections.labels("idle").set_function(pool.idle)
        Gauge(
            "db_client_connection_max",
            "Connections to the database that may be open.",
            registry=self.registry,
        ).set_function(pool.most)
        self._series: dict[tuple[str, str | None, int], Histogram] = {}

    def count_refusals(self, refused: Callable[[], int]) -> None:
        """Take what tells how many requests were refused for load so far."""
        self.registry.register(_Refusals(refused))

    def start(self) -> None:
        """Count a request as being served."""
        self._active.inc()

    def end(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count it as served; `route` is a template, None for a path that is no operation's."""
        self._active.dec()
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._seconds.labels(method, route or "", status)
        series.observe(seconds)

    def serve(self, host: str, port: int) -> AbstractContextManager[int]:
        """Listen for `/metrics`, in a thread of its own until the end. Raises OSError."""
        server, thread = start_http_server(port, host, self.registry)
        return _served(server, thread)


class _Refusals(Collector):
    """The requests that were refused at their head, which nothing else here sees."""

    def __init__(self, refused: Callable[[], int]) -> None:
        self.refused = refused

    def collect(self) -> Iterable[Metric]:
        """Ask when the metrics are asked for."""
        words = "Requests that were refused since others were being served."
        yield CounterMetricFamily("http_server_refused_requests", words, self.refused())


@contextmanager
def _served(server: WSGIServer, thread: Thread) -> Generator[int]:
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
