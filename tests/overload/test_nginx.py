"""Two replicas behind nginx with `deploy/nginx.conf`: `task proxy:check`, needs nginx."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import asyncpg
import httpx
import pytest

from tests.overload.nginx import nginx
from tests.overload.work import memory
from tests.support.client import assert_problem, tasks_of
from tests.support.live import Live, read_response, request
from tests.support.process import Service, eventually, serving

pytestmark = [pytest.mark.requirement("NFR-017"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
OF_ONE_ADDRESS = 100  # limit_conn


class Balanced(NamedTuple):
    """nginx, and the replicas behind it."""

    front: Live
    replicas: tuple[Service, Service]


@pytest.fixture(scope="module")
def balanced(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    folder = tmp_path_factory.mktemp("nginx")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(serving(DATABASE_URL=database_url, REQUESTS_AT_ONCE=2))
            for _ in range(2)
        )
        ports = [int(service.url.rpartition(":")[2]) for service in (one, two)]
        front = stack.enter_context(nginx(folder, (ports[0], ports[1])))
        yield Balanced(front, (one, two))


@pytest.fixture
def front(balanced: Balanced) -> Live:
    return balanced.front


def assert_has_fields(response: httpx.Response) -> None:
    """What every response has: also those of nginx's own."""
    assert response.headers["x-request-id"] == response.json()["instance"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["content-type"] == "application/problem+json"


# --- what passes through -------------------------------------------------------------------------


def test_an_answer_passes_through_as_it_is(front: Live) -> None:
    answered = front.call("POST", ALICE, JSON, "X-Request-ID: mine", body=SMALL)
    assert answered.status_code == 201
    assert answered.headers["x-request-id"] == "mine"
    found = front.call("GET", answered.headers["location"])
    assert (found.status_code, found.json()) == (200, answered.json())
    assert found.headers["etag"] == answered.json()["etag"]


@pytest.mark.parametrize(
    ("method", "target", "status", "kind"),
    [
        ("GET", "/nope", 404, "path-not-found"),
        ("GET", "//livez", 404, "path-not-found"),
        ("GET", ALICE.replace("/tasks", "%2Ftasks"), 404, "path-not-found"),
        ("DELETE", ALICE, 405, "method-not-allowed"),
    ],
)
def test_a_problem_passes_through_as_it_is(
    front: Live, method: str, target: str, status: int, kind: str
) -> None:
    refused = front.call(method, target, "X-Request-ID: mine")
    assert_problem(refused, status, kind)
    assert refused.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
def test_a_request_id_that_is_none_is_replaced(front: Live, given: str) -> None:
    answered = front.call("GET", "/livez", f"X-Request-ID: {given}")
    assert len(answered.headers["x-request-id"]) == 32


# --- nginx's own answers -------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_the_same_problem_before_it_arrives(front: Live) -> None:
    refused = front.exchange(
        request("POST", ALICE, JSON, "X-Request-ID: mine", "Content-Length: 131073"),
        method="POST",
        target=ALICE,
    )
    assert_problem(refused, 413, "content-too-large")
    assert_has_fields(refused)
    assert refused.headers["x-request-id"] == "mine"


def test_a_head_that_is_too_large_is_the_same_problem(front: Live) -> None:
    refused = front.call("GET", "/livez", "X: " + "a" * 40_000)
    assert_problem(refused, 431, "header-fields-too-large")
    assert_has_fields(refused)


@pytest.mark.parametrize("field", ["Host: b", "Content-Length: x"])
def test_what_is_no_http_is_the_same_problem(front: Live, field: str) -> None:
    refused = front.call("GET", "/livez", field)
    assert_problem(refused, 400, "malformed-request")
    assert_has_fields(refused)


# --- abuse ---------------------------------------------------------------------------------------


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    """Those on which something has come."""
    return select.select(connections, [], [], 0)[0]


def test_slow_bodies_reach_no_replica_and_one_address_has_only_so_many(
    balanced: Balanced, record_property: Callable[[str, object], None]
) -> None:
    front, replicas = balanced
    before = [memory(service.pid) for service in replicas]
    head = request("POST", ALICE, JSON, "Content-Length: 21")
    with ExitStack() as stack:
        slow = [stack.enter_context(front.connected()) for _ in range(OF_ONE_ADDRESS + 10)]
        for connection in slow:
            connection.sendall(head)
        # nginx's processes take them in an order of their own.
        eventually(lambda: len(answered(slow)) == len(slow) - OF_ONE_ADDRESS)
        hasty = answered(slow)
        refused = [read_response(connection, "POST") for connection in hasty]
        next(connection for connection in slow if connection not in hasty).close()
        time.sleep(0.2)
        assert front.call("GET", ALICE).status_code == 200
    for response in refused:
        assert_problem(response, 503, "overloaded")
        assert_has_fields(response)
        assert response.headers["retry-after"] == "1"
    grown = [memory(service.pid) - was for service, was in zip(replicas, before, strict=True)]
    record_property("memory of each replica behind nginx, slow bodies in front of it", grown)
    assert max(grown) < 2**20


@pytest.mark.parametrize(
    "sent", [b"GET /livez HTTP/1.1\r\nX: a", request("POST", ALICE, JSON, "Content-Length: 21")]
)
def test_what_stops_is_closed_in_time(
    front: Live, sent: bytes, record_property: Callable[[str, object], None]
) -> None:
    with front.connected() as connection:
        connection.settimeout(20)
        connection.sendall(sent)
        started = time.monotonic()
        with suppress(ConnectionResetError):  # what is left unsent is dropped with it
            assert connection.recv(1) == b""
        seconds = time.monotonic() - started
    record_property("seconds until nginx closes what has stopped", round(seconds, 1))
    assert 9 < seconds < 15


def test_idle_connections_in_thousands_hinder_nobody(balanced: Balanced) -> None:
    front, replicas = balanced
    before = [memory(service.pid) for service in replicas]
    with ExitStack() as stack:
        for _ in range(900):  # below what a process may open by default
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
        assert front.call("GET", ALICE).status_code == 200
        grown = [memory(service.pid) - was for service, was in zip(replicas, before, strict=True)]
    assert max(grown) < 2**20


# --- replicas that go away: last, as they do not come back ---------------------------------------


async def test_without_one_replica_the_other_serves_and_without_both_it_is_502(
    balanced: Balanced, database: asyncpg.Connection
) -> None:
    front, (one, two) = balanced
    one.stop(signal.SIGKILL)
    for _ in range(10):
        assert front.call("POST", ALICE, JSON, body=SMALL).status_code == 201
    assert await database.fetchval("SELECT count(*) FROM tasks") == 10
    two.stop(signal.SIGKILL)
    with front.connected() as connection:
        connection.sendall(request("GET", ALICE, "X-Request-ID: mine"))
        answered = read_response(connection)
    assert answered.status_code == 502
    assert answered.json()["type"] == "about:blank"
    assert_has_fields(answered)
    assert answered.headers["x-request-id"] == "mine"
    assert answered.headers["retry-after"] == "1"
