"""More concurrent requests than the limit, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Any

import asyncpg
import msgspec
import pytest
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from app.settings import Settings
from tests.contract.test_responses import PLAIN
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, request, serve_in_thread
from tests.support.process import eventually, execute

pytestmark = [pytest.mark.requirement("FR-047"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
HOLD_HEADER = "X-Hold: 1"


class Gate:
    """A guard that holds marked requests until it is opened."""

    def __init__(self) -> None:
        self.reached = Event()
        self.opened = Event()

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        if "x-hold" in connection.headers:
            self.reached.set()
            await asyncio.to_thread(self.opened.wait, 60)


@contextmanager
def full(settings: Settings) -> Iterator[tuple[LiveServer, Gate]]:
    """A service with a limit of one concurrent request, and one request in progress."""
    gate = Gate()
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=1)
    with serve_in_thread(limited_settings, guards=[gate]) as live, live.connect() as connection:
        connection.sendall(request("GET", ALICE, HOLD_HEADER))
        assert gate.reached.wait(10)
        yield live, gate
        gate.opened.set()
        assert read_response(connection).status_code == 200


@pytest.fixture(scope="module")
def overloaded(settings: Settings) -> Iterator[LiveServer]:
    with full(settings) as (live, _):
        yield live


OTHER_REQUESTS = [
    operation for operation in PLAIN if operation not in {"getLiveness", "getReadiness"}
]


@pytest.mark.parametrize("operation", OTHER_REQUESTS)
def test_request_above_the_limit_is_immediately_rejected(
    overloaded: LiveServer, operation: str
) -> None:
    started = time.monotonic()
    response = overloaded.call(PLAIN[operation]["method"], PLAIN[operation]["url"])
    assert time.monotonic() - started < 1
    assert_problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("target", ["/livez", "/readyz"])
def test_health_check_is_not_rejected(overloaded: LiveServer, target: str, method: str) -> None:
    assert overloaded.call(method, target).is_success


@pytest.mark.parametrize("target", ["/livez?", "/readyz/", "//livez"])
def test_request_similar_to_a_health_check_is_rejected(overloaded: LiveServer, target: str) -> None:
    with overloaded.connect() as connection:
        connection.sendall(request("GET", target))
        assert_problem(read_response(connection), 503, "overloaded")


async def test_rejected_request_has_no_effect(
    overloaded: LiveServer, database: asyncpg.Connection
) -> None:
    assert overloaded.call("POST", ALICE, JSON, body=SMALL).status_code == 503
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize(
    "fields",
    [("X-Request-ID: mine",), ("X-Request-ID: a", "X-Request-ID: mine")],
    ids=["one", "the last of two"],
)
def test_rejection_has_the_request_id_of_the_client(
    overloaded: LiveServer, fields: tuple[str, ...]
) -> None:
    response = overloaded.call("GET", ALICE, *fields)
    assert response.headers["x-request-id"] == response.json()["instance"] == "mine"


@pytest.mark.requirement("FR-029")
def test_rejection_without_request_id_gets_a_new_one(overloaded: LiveServer) -> None:
    ids = {overloaded.call("GET", ALICE, "X-Request-ID: a b").json()["instance"] for _ in range(2)}
    assert len(ids) == 2
    assert "a b" not in ids


@pytest.mark.requirement("FR-030")
def test_rejected_head_has_no_body_and_keeps_the_connection(overloaded: LiveServer) -> None:
    with overloaded.connect() as connection:
        connection.sendall(request("HEAD", ALICE))
        assert read_response(connection, "HEAD").status_code == 503
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).json() == {"status": "alive"}


@pytest.mark.parametrize("later", [0, 10], ids=["at once", "in parts"])
def test_body_of_a_rejected_request_is_not_parsed_as_a_request(
    overloaded: LiveServer, later: int
) -> None:
    body = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
    data = request("POST", ALICE, JSON, body=body)
    at = len(data) - later
    with overloaded.connect() as connection:
        connection.sendall(data[:at])
        assert_problem(read_response(connection, "POST"), 503, "overloaded")
        connection.sendall(data[at:] + request("GET", "/livez"))
        assert read_response(connection).json() == {"status": "alive"}


@pytest.mark.parametrize("header", ["Expect: 100-continue", "Connection: close"])
def test_rejection_closes_a_connection_that_cannot_continue(
    overloaded: LiveServer, header: str
) -> None:
    with overloaded.connect() as connection:
        connection.sendall(request("POST", ALICE, JSON, header, "Content-Length: 21"))
        response = read_response(connection, "POST")
        assert connection.recv(1) == b""
    assert_problem(response, 503, "overloaded")
    assert response.headers["connection"] == "close"


def test_rejected_connection_is_served_below_the_limit(settings: Settings) -> None:
    with full(settings) as (live, gate), live.connect() as connection:
        connection.sendall(request("GET", ALICE))
        assert read_response(connection).status_code == 503
        gate.opened.set()

        def is_served() -> bool:
            connection.sendall(request("GET", ALICE))
            return read_response(connection).status_code == 200

        eventually(is_served, 10)


@pytest.mark.requirement("FR-031")
def test_rejection_is_readable_from_allowed_origin(settings: Settings) -> None:
    allowed = msgspec.structs.replace(settings, cors_origins=("https://a.test",))
    with full(allowed) as (live, _):
        response = live.call("GET", ALICE, "Origin: https://a.test")
    assert response.status_code == 503
    assert response.headers["access-control-allow-origin"] == "https://a.test"


def test_slow_request_body_does_not_count_against_the_limit(settings: Settings) -> None:
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=1)
    with serve_in_thread(limited_settings) as live, live.connect() as slow:
        slow.sendall(request("POST", ALICE, JSON, "Content-Length: 21") + SMALL[:5])
        time.sleep(0.2)
        assert live.call("GET", ALICE).status_code == 200
        slow.sendall(SMALL[5:])
        assert read_response(slow, "POST").status_code == 201


def test_request_without_body_counts_against_the_limit(settings: Settings) -> None:
    gate = Gate()
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=1)
    with serve_in_thread(limited_settings, guards=[gate]) as live, live.connect() as connection:
        connection.sendall(request("GET", ALICE, HOLD_HEADER, "Content-Length: 1"))
        assert gate.reached.wait(10)
        assert live.call("GET", ALICE).status_code == 503
        gate.opened.set()


# --- health checks, disconnected clients and recovery after overload -----------------------------


def burst(connections: list[socket.socket], target: str = ALICE) -> list[int]:
    """Send a request on each connection, then read the statuses."""
    for connection in connections:
        connection.sendall(request("GET", target))
    return [read_response(connection).status_code for connection in connections]


@contextmanager
def connected(live: LiveServer, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(live.connect()) for _ in range(number)]


def test_health_checks_do_not_count(settings: Settings) -> None:
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=1)
    closed, checks = Event(), Counter[int]()

    def repeat_health_checks(connections: list[socket.socket]) -> None:
        while not closed.is_set():
            checks.update(burst(connections, "/readyz"))

    with serve_in_thread(limited_settings) as live, connected(live, 32) as checking:
        thread = Thread(target=repeat_health_checks, args=[checking])
        thread.start()
        statuses = Counter(live.call("GET", ALICE).status_code for _ in range(50))
        closed.set()
        thread.join()
    assert statuses == {200: 50}
    assert checks[200] >= 32


BIG = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT 'alice', gen_random_uuid(), 'Buy milk', repeat('\U0001f95b', 16384),
           now(), now(), gen_random_uuid()
    FROM generate_series(1, 20)
"""
BEGINNINGS = {
    "nothing sent": b"",
    "in the header section": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ",
    "in a body": request("POST", ALICE, JSON, "Content-Length: 21") + SMALL[:5],
    "after a body": request("POST", ALICE, JSON, body=SMALL),
    "after a health check": request("GET", "/readyz") + request("GET", ALICE),
    "after a request": request("GET", ALICE),
    "in a pipeline": request("GET", ALICE) * 16,
    "while its request is handled": request("GET", ALICE, HOLD_HEADER),
    "behind a request that is handled": request("GET", ALICE, HOLD_HEADER) + request("GET", ALICE),
}


@pytest.mark.parametrize("data", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("wait", [0.0, 0.2], ids=["at once", "later"])
def test_disconnected_client_releases_its_slot(
    settings: Settings, database_url: str, data: bytes, wait: float
) -> None:
    execute(database_url, BIG)  # the responses do not fit into the socket buffers
    gate = Gate()
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=1)
    with serve_in_thread(limited_settings, guards=[gate]) as live:
        with live.connect() as connection:
            connection.sendall(data)
            time.sleep(wait)
            # Reset the connection, so that the service drops all its data.
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        gate.opened.set()
        eventually(lambda: live.call("GET", f"{ALICE}?limit=1").status_code == 200)
        gate.opened.clear()
        gate.reached.clear()
        with live.connect() as connection:  # the limit is one request
            connection.sendall(request("GET", f"{ALICE}?limit=1", HOLD_HEADER))
            assert gate.reached.wait(10)
            assert live.call("GET", ALICE).status_code == 503
            gate.opened.set()
            assert read_response(connection).status_code == 200


def test_bursts_are_served_a_second_after_overload(settings: Settings) -> None:
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=6)
    during, after = Counter[int](), Counter[int]()
    with serve_in_thread(limited_settings) as live, connected(live, 48) as clients:
        started = time.monotonic()
        while time.monotonic() < started + 1:
            during.update(burst(clients))
        time.sleep(1)
        for _ in range(20):
            after.update(burst(clients[:6]))
    assert during[503] > during[200] > 0
    assert after == {200: 120}


def test_client_without_pauses_is_served_after_overload(
    settings: Settings,
) -> None:
    limited_settings = msgspec.structs.replace(settings, max_concurrent_requests=6)
    with serve_in_thread(limited_settings) as live, connected(live, 48) as clients:
        started = time.monotonic()
        while time.monotonic() < started + 1:
            burst(clients)
        ended_at = time.monotonic()
        while time.monotonic() < ended_at + 1:
            burst(clients[:6])
        assert Counter(burst(clients[:6]) == [200] * 6 for _ in range(20)) == {True: 20}
