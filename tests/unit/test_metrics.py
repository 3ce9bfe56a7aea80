"""The metrics of one process in the format of Prometheus."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from app import metrics as module
from app.http.cors import CORSPolicy
from app.http.middleware import HTTPMiddleware
from app.logging import access_log, log_writer
from app.metrics import BUCKETS, MAX_THREADS, Metrics, PoolStats
from tests.support.process import eventually

pytestmark = pytest.mark.requirement("FR-049")

DURATION = "http_server_request_duration_seconds"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(PoolStats(in_use=lambda: 3, idle_count=lambda: 2, max_size=lambda: 10))


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def labels(method: str = "GET", route: str = "/livez", status: str = "200") -> dict[str, str]:
    return {
        "http_request_method": method,
        "http_route": route,
        "http_response_status_code": status,
    }


def test_request_is_counted_with_its_duration(metrics: Metrics) -> None:
    for seconds in (0.002, 0.3):
        metrics.request_started()
        metrics.request_finished("GET", "/livez", 200, seconds)
    assert value(metrics.registry, f"{DURATION}_count", **labels()) == 2
    assert value(metrics.registry, f"{DURATION}_sum", **labels()) == 0.302
    counts = {
        bound: value(metrics.registry, f"{DURATION}_bucket", **labels(), le=str(float(bound)))
        for bound in BUCKETS
    }
    assert counts == {bound: (bound >= 0.0025) + (bound >= 0.5) for bound in BUCKETS}


def test_histogram_buckets(metrics: Metrics) -> None:
    metrics.request_started()
    metrics.request_finished("GET", "/livez", 200, 0.002)
    bounds = {
        sample.labels["le"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"{DURATION}_bucket"
    }
    milliseconds = {"0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"}
    assert bounds == milliseconds | {"1.0", "2.5", "5.0", "+Inf"}


def test_requests_are_labelled_by_method_route_and_status(metrics: Metrics) -> None:
    for method, route, status in [("GET", "/livez", 200), ("HEAD", "/livez", 200)]:
        metrics.request_started()
        metrics.request_finished(method, route, status, 0.1)
    metrics.request_started()
    metrics.request_finished("GET", None, 404, 0.1)
    for expected_labels in (labels(), labels("HEAD")):
        assert value(metrics.registry, f"{DURATION}_count", **expected_labels) == 1
    assert value(metrics.registry, f"{DURATION}_count", **labels(route="", status="404")) == 1


def test_active_requests_are_counted(metrics: Metrics) -> None:
    metrics.request_started()
    metrics.request_started()
    assert value(metrics.registry, "http_server_active_requests") == 2
    metrics.request_finished("GET", "/livez", 200, 0.1)
    assert value(metrics.registry, "http_server_active_requests") == 1


def test_pool_metrics_are_read_on_collection(metrics: Metrics) -> None:
    states = {
        state: value(
            metrics.registry, "db_client_connection_count", db_client_connection_state=state
        )
        for state in ("used", "idle")
    }
    assert states == {"used": 3, "idle": 2}
    assert value(metrics.registry, "db_client_connection_max") == 10


def test_rejected_requests_are_read_on_collection(metrics: Metrics) -> None:
    totals = [2, 5]
    metrics.register_rejections(totals.pop)
    assert value(metrics.registry, "http_server_rejected_requests_total") == 5
    assert value(metrics.registry, "http_server_rejected_requests_total") == 2


def test_dropped_log_lines_are_read_on_collection(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "dropped", 7)
    assert value(metrics.registry, "log_lines_dropped_total") == 7


def test_metrics_have_descriptions(metrics: Metrics) -> None:
    metrics.register_rejections(lambda: 0)
    descriptions = {family.name: family.documentation for family in metrics.registry.collect()}
    own_metrics = {
        name: description
        for name, description in descriptions.items()
        if name.startswith(("http_", "db_", "log_"))
    }
    assert own_metrics == {
        "http_server_request_duration_seconds": "Duration of requests, by their end.",
        "http_server_active_requests": "Requests that are being served.",
        "http_server_rejected_requests": (
            "Requests that were refused since others were being served."
        ),
        "db_client_connection_count": "Connections to the database.",
        "db_client_connection_max": "Connections to the database that may be open.",
        "log_lines_dropped": "Log lines that could not be written.",
    }
    # Metrics of the process, of Python, and of its garbage collector.
    assert {"process_open_fds", "python_info", "python_gc_collections"} <= descriptions.keys()


@contextmanager
def serve(metrics: Metrics) -> Iterator[int]:
    """Serve the metrics, and yield their port."""
    with socket.create_server(("127.0.0.1", 0)) as listener, metrics.serve(listener):
        yield listener.getsockname()[1]


def test_metrics_are_served_until_shutdown(metrics: Metrics) -> None:
    before = set(threading.enumerate())
    with serve(metrics) as port:
        (thread,) = set(threading.enumerate()) - before
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://[::1]:{port}/metrics")
        with socket.create_server(("127.0.0.2", port)):
            pass  # free, because only the configured address is bound
        response = httpx.get(f"http://127.0.0.1:{port}/metrics")
        families = {family.name for family in text_string_to_metric_families(response.text)}
    assert not thread.is_alive()
    assert response.status_code == 200
    assert {DURATION, "db_client_connection_count", "process_resident_memory_bytes"} <= families
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_silent_clients_are_limited_in_number_and_time(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SCRAPE_TIMEOUT", 1.0)
    before = threading.active_count()
    with serve(metrics) as port, ExitStack() as stack:
        for number in range(200):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            silent.sendall(b"GET /metrics HTTP/1.1\r\n" if number % 2 else b"")
        deadline = time.monotonic() + 0.5
        peak = 0
        while time.monotonic() < deadline:
            peak = max(peak, threading.active_count())
            time.sleep(0.01)
        assert peak - before <= 1 + 2 * MAX_THREADS  # some threads are about to end
        eventually(lambda: is_scraped(port))
    assert capsys.readouterr().err == ""


def is_scraped(port: int) -> bool:
    """Return whether a scrape succeeds."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
    except httpx.TransportError:
        return False


def test_endless_request_is_disconnected(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRAPE_TIMEOUT", 0.5)
    with serve(metrics) as port, socket.create_connection(("127.0.0.1", port), 20) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")

        def is_disconnected() -> bool:
            try:
                slow.sendall(b"X: a\r\n")
            except ConnectionError:
                return True
            return False

        eventually(is_disconnected)


def test_client_that_does_not_read_is_disconnected(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCRAPE_TIMEOUT", 0.5)
    Gauge("long", "a" * 20_000_000, registry=metrics.registry)  # more than the socket buffers hold
    before = threading.active_count()
    with serve(metrics) as port, socket.create_connection(("127.0.0.1", port), 20) as slow_reader:
        slow_reader.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        eventually(lambda: threading.active_count() == before + 2)
        eventually(lambda: threading.active_count() == before + 1)


async def test_middleware_counts_by_route(metrics: Metrics) -> None:
    async def routed(scope: Any, _: object, send: Any) -> None:
        scope["path_template"] = "/things/{name}"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware: Any = HTTPMiddleware(routed, [], CORSPolicy(()), metrics)
    transport = httpx.ASGITransport(app=middleware)
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        await client.put("/things/1")
    expected_labels = labels("PUT", "/things/{name}", "204")
    assert value(metrics.registry, f"{DURATION}_count", **expected_labels) == 1


async def test_middleware_counts_errors_outside_litestar(metrics: Metrics) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError

    middleware: Any = HTTPMiddleware(fail, [], CORSPolicy(()), metrics)
    transport = httpx.ASGITransport(app=middleware)
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        await client.get("/livez")
        await client.get("/livez/")
    registry = metrics.registry
    assert value(registry, f"{DURATION}_count", **labels(route="", status="500")) == 1
    assert value(registry, f"{DURATION}_count", **labels(route="", status="404")) == 1
    assert value(registry, "http_server_active_requests") == 0


async def test_failed_log_line_does_not_leak_an_active_request(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("No space")

    monkeypatch.setattr(access_log, "write", fail)
    middleware: Any = HTTPMiddleware(fail, [], CORSPolicy(()), metrics)  # type: ignore[arg-type]  # never called
    transport = httpx.ASGITransport(app=middleware)
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        with pytest.raises(OSError, match="No space"):
            await client.get("/livez/")
    assert value(metrics.registry, "http_server_active_requests") == 0
    assert value(metrics.registry, f"{DURATION}_count", **labels(route="", status="404")) == 1
