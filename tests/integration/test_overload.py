"""More requests than may be served at once, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import asyncpg
import msgspec
import pytest
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from app.settings import Settings
from tests.contract.test_responses import PLAIN
from tests.support.client import assert_problem, tasks_of
from tests.support.live import Live, read_response, request, served
from tests.support.process import eventually

pytestmark = [pytest.mark.requirement("FR-047"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
HELD = "X-Hold: 1"


class Gate:
    """A guard that keeps a request, where the request asks for it, until it is opened."""

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
def full(settings: Settings) -> Iterator[tuple[Live, Gate]]:
    """A service that may serve one request at once, and serves one."""
    gate = Gate()
    one = msgspec.structs.replace(settings, requests_at_once=1)
    with served(one, guards=[gate]) as live, live.connected() as connection:
        connection.sendall(request("GET", ALICE, HELD))
        assert gate.reached.wait(10)
        yield live, gate
        gate.opened.set()
        assert read_response(connection).status_code == 200


@pytest.fixture(scope="module")
def overloaded(settings: Settings) -> Iterator[Live]:
    with full(settings) as (live, _):
        yield live


OTHERS = [operation for operation in PLAIN if operation not in {"getLiveness", "getReadiness"}]


@pytest.mark.parametrize("operation", OTHERS)
def test_one_more_is_refused_at_once_whatever_it_asks(overloaded: Live, operation: str) -> None:
    started = time.monotonic()
    refused = overloaded.call(PLAIN[operation]["method"], PLAIN[operation]["url"])
    assert time.monotonic() - started < 1
    assert_problem(refused, 503, "overloaded")
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("target", ["/livez", "/readyz"])
def test_a_probe_is_answered_all_the_same(overloaded: Live, target: str, method: str) -> None:
    assert overloaded.call(method, target).is_success


@pytest.mark.parametrize("target", ["/livez?", "/readyz/", "//livez"])
def test_what_only_looks_like_a_probe_is_refused(overloaded: Live, target: str) -> None:
    with overloaded.connected() as connection:
        connection.sendall(request("GET", target))
        assert_problem(read_response(connection), 503, "overloaded")


async def test_nothing_of_it_is_done(overloaded: Live, database: asyncpg.Connection) -> None:
    assert overloaded.call("POST", ALICE, JSON, body=SMALL).status_code == 503
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.requirement("FR-029")
@pytest.mark.parametrize(
    "fields",
    [("X-Request-ID: mine",), ("X-Request-ID: a", "X-Request-ID: mine")],
    ids=["one", "the last of two"],
)
def test_a_refusal_has_the_id_that_the_request_brings(
    overloaded: Live, fields: tuple[str, ...]
) -> None:
    refused = overloaded.call("GET", ALICE, *fields)
    assert refused.headers["x-request-id"] == refused.json()["instance"] == "mine"


@pytest.mark.requirement("FR-029")
def test_a_refusal_has_an_id_of_its_own_where_the_request_brings_none(overloaded: Live) -> None:
    ids = {overloaded.call("GET", ALICE, "X-Request-ID: a b").json()["instance"] for _ in range(2)}
    assert len(ids) == 2
    assert "a b" not in ids


@pytest.mark.requirement("FR-030")
def test_a_refused_head_has_no_body_and_the_connection_is_in_step(overloaded: Live) -> None:
    with overloaded.connected() as connection:
        connection.sendall(request("HEAD", ALICE))
        assert read_response(connection, "HEAD").status_code == 503
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).json() == {"status": "alive"}


@pytest.mark.parametrize("later", [0, 10], ids=["at once", "in parts"])
def test_the_body_of_a_refused_request_is_not_taken_for_another_request(
    overloaded: Live, later: int
) -> None:
    body = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
    sent = request("POST", ALICE, JSON, body=body)
    at = len(sent) - later
    with overloaded.connected() as connection:
        connection.sendall(sent[:at])
        assert_problem(read_response(connection, "POST"), 503, "overloaded")
        connection.sendall(sent[at:] + request("GET", "/livez"))
        assert read_response(connection).json() == {"status": "alive"}


@pytest.mark.parametrize("field", ["Expect: 100-continue", "Connection: close"])
def test_a_connection_that_cannot_go_on_is_closed(overloaded: Live, field: str) -> None:
    with overloaded.connected() as connection:
        connection.sendall(request("POST", ALICE, JSON, field, "Content-Length: 21"))
        refused = read_response(connection, "POST")
        assert connection.recv(1) == b""
    assert_problem(refused, 503, "overloaded")
    assert refused.headers["connection"] == "close"


def test_a_refused_connection_is_served_when_there_is_room(settings: Settings) -> None:
    with full(settings) as (live, gate), live.connected() as connection:
        connection.sendall(request("GET", ALICE))
        assert read_response(connection).status_code == 503
        gate.opened.set()

        def is_served() -> bool:
            connection.sendall(request("GET", ALICE))
            return read_response(connection).status_code == 200

        eventually(is_served, 10)


@pytest.mark.requirement("FR-031")
def test_a_page_of_an_allowed_origin_may_read_the_refusal(settings: Settings) -> None:
    allowed = msgspec.structs.replace(settings, cors_origins=("https://a.test",))
    with full(allowed) as (live, _):
        refused = live.call("GET", ALICE, "Origin: https://a.test")
    assert refused.status_code == 503
    assert refused.headers["access-control-allow-origin"] == "https://a.test"


def test_a_client_that_is_slow_with_its_body_takes_no_place(settings: Settings) -> None:
    one = msgspec.structs.replace(settings, requests_at_once=1)
    with served(one) as live, live.connected() as slow:
        slow.sendall(request("POST", ALICE, JSON, "Content-Length: 21") + SMALL[:5])
        time.sleep(0.2)
        assert live.call("GET", ALICE).status_code == 200
        slow.sendall(SMALL[5:])
        assert read_response(slow, "POST").status_code == 201


def test_a_request_that_needs_no_body_takes_a_place_without_it(settings: Settings) -> None:
    gate = Gate()
    one = msgspec.structs.replace(settings, requests_at_once=1)
    with served(one, guards=[gate]) as live, live.connected() as connection:
        connection.sendall(request("GET", ALICE, HELD, "Content-Length: 1"))
        assert gate.reached.wait(10)
        assert live.call("GET", ALICE).status_code == 503
        gate.opened.set()
