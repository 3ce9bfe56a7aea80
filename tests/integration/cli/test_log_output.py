"""If the log cannot be written, lines are lost but the service continues."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.client import tasks_of
from tests.support.live import read_response, request
from tests.support.process import Service, command, eventually, launch_service, run_program

pytestmark = pytest.mark.requirement("FR-041")

ALICE = tasks_of("alice-of-the-log-output")
JSON = "Content-Type: application/json"
GARBAGE = b"garbage\r\n\r\n"
TOO_LARGE = request("GET", "/livez", "X: " + "x" * 40_000)
IN_SHELL = ["/bin/sh", "-c"]


@contextmanager
def closing(*descriptors: int) -> Iterator[None]:
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def serving_to(output_kind: str, url: str) -> Iterator[Service]:
    """Start a service whose log cannot be written."""
    settings = {"DATABASE_URL": url, "PORT": 0, "METRICS_PORT": 0}
    arguments = command("serve")
    if output_kind == "closed":
        arguments = [*IN_SHELL, 'exec "$@" >&-', "sh", *arguments]
    reading, writing = os.pipe()
    unread_pipe_is_full = os.open("/dev/full", os.O_WRONLY)
    with closing(reading, writing, unread_pipe_is_full):
        if output_kind == "reader gone":
            os.dup2(unread_pipe_is_full, reading)  # closes the reading end
        log = unread_pipe_is_full if output_kind == "full" else writing
        with launch_service(arguments, settings, log=log) as service:
            service.await_alive()
            yield service


def connected(service: Service) -> socket.socket:
    port = int(service.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def metric(service: Service, name: str) -> float:
    text = httpx.get(service.startup_value("metrics")).text
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert match, text
    return float(match[1])


@pytest.mark.parametrize("output_kind", ["full", "reader gone", "closed", "not read"])
@pytest.mark.requirement("FR-049")
def test_service_responds_with_an_unwritable_log(output_kind: str, url: str) -> None:
    with serving_to(output_kind, url) as service:
        with connected(service) as connection:
            for _ in range(3):
                connection.sendall(request("GET", "/livez"))
                assert read_response(connection).status_code == 200
            connection.sendall(request("POST", ALICE, JSON, body=b'{"title":"a"}'))
            assert read_response(connection, "POST").status_code == 201
            connection.sendall(request("POST", ALICE, JSON, body=b"{"))
            assert read_response(connection, "POST").status_code == 400
        for sent, status in ((GARBAGE, 400), (TOO_LARGE, 431)):
            with connected(service) as closed:
                closed.sendall(sent)
                assert read_response(closed).status_code == status
        assert httpx.get(f"{service.url}/livez").status_code == 200
        assert metric(service, "http_server_active_requests") == 0
        if output_kind != "not read":
            eventually(lambda: metric(service, "log_lines_dropped_total") >= 8)
        assert service.stop() == 0


def test_incomplete_request_is_408(url: str) -> None:
    with serving_to("full", url) as service, connected(service) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\n")
        assert read_response(slow).status_code == 408
        assert httpx.get(f"{service.url}/livez").status_code == 200
        assert service.stop() == 0


@pytest.mark.requirement("FR-049")
def test_unread_log_is_bounded_and_resumes_when_read(url: str) -> None:
    reading, writing = os.pipe()
    settings = {"DATABASE_URL": url, "PORT": 0, "METRICS_PORT": 0}
    with (
        closing(reading, writing),
        launch_service(command("serve"), settings, log=writing) as service,
    ):
        service.await_alive()
        flood(service)
        dropped = metric(service, "log_lines_dropped_total")
        assert httpx.get(f"{service.url}/livez").status_code == 200
        written = b""
        while b'"log lines dropped"' not in written:
            written += os.read(reading, 1_048_576)
        lines = [json.loads(line) for line in written.splitlines() if line.endswith(b"}")]
        (line,) = [line for line in lines if line["event"] == "log lines dropped"]
        assert (line["level"], line["total"] >= dropped) == ("warning", True)
        assert service.stop() == 0


def test_sigterm_stops_a_service_with_an_unread_log(url: str) -> None:
    with serving_to("not read", url) as service:
        flood(service)
        assert service.stop() == 0


def flood(service: Service) -> None:
    """Send requests until log lines are dropped, and check that each gets a response."""
    sent = 16 * request("GET", "/livez", "X-Request-ID: " + "x" * 128)
    with connected(service) as connection:
        while not metric(service, "log_lines_dropped_total"):
            for _ in range(100):
                connection.sendall(sent)
                received = b""
                while received.count(b'{"status":"alive"}') < 16:
                    received += connection.recv(65_536)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.parametrize("name", ["migrate", "doctor"])
def test_command_works_with_unwritable_output(name: str, streams: str, url: str) -> None:
    arguments = [*IN_SHELL, f'exec "$@" {streams}', "sh", *command(name)]
    result = run_program(arguments, {"DATABASE_URL": url, "PORT": 0})
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "2>/dev/full"])
def test_service_starts_with_unwritable_stderr(streams: str, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port_in_use:
        port = port_in_use.getsockname()[1]
    arguments = [*IN_SHELL, f'exec "$@" {streams}', "sh", *command("serve")]
    with launch_service(arguments, {"DATABASE_URL": url, "PORT": port}) as service:
        eventually(lambda: responds(port))
        service.process.terminate()
        assert service.process.wait(20) == 0
        assert "Tasks API" not in service.out


def responds(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    except httpx.TransportError:
        return False
