"""Two replicas behind nginx with `deploy/nginx.conf`: `task check:nginx`, needs nginx."""

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

from app.openapi.document import OpenAPIDocument
from bench.load.workload import memory
from tests.e2e.nginx.proxy import nginx
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, request
from tests.support.process import Service, eventually, serving

pytestmark = [pytest.mark.requirement("NFR-017"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
OF_ONE_ADDRESS = 100  # limit_conn
PAGE = "https://app.example"


class Balanced(NamedTuple):
    """nginx, and the replicas behind it."""

    front: LiveServer
    replicas: tuple[Service, Service]


@pytest.fixture(scope="module")
def balanced(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    folder = tmp_path_factory.mktemp("nginx")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                serving(DATABASE_URL=database_url, MAX_CONCURRENT_REQUESTS=2, CORS_ORIGINS=PAGE)
            )
            for _ in range(2)
        )
        ports = [int(service.url.rpartition(":")[2]) for service in (one, two)]
        front = stack.enter_context(nginx(folder, (ports[0], ports[1]), PAGE))
        yield Balanced(front, (one, two))


@pytest.fixture
def front(balanced: Balanced) -> LiveServer:
    return balanced.front


def assert_is(response: httpx.Response, status: int, kind: str | None) -> None:
    """A problem of nginx's own: of a kind of the service's, or of none."""
    assert_has_fields(response)
    assert response.status_code == response.json()["status"] == status
    assert response.json()["type"] == (f"/problems/{kind}" if kind else "about:blank")
    assert response.headers["vary"] == "Origin"


def assert_has_fields(response: httpx.Response) -> None:
    """What every response has: also those of nginx's own."""
    assert response.headers["x-request-id"] == response.json()["instance"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["content-type"] == "application/problem+json"


# --- what passes through -------------------------------------------------------------------------


def test_an_answer_passes_through_as_it_is(front: LiveServer) -> None:
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
    front: LiveServer, method: str, target: str, status: int, kind: str
) -> None:
    refused = front.call(method, target, "X-Request-ID: mine")
    assert_problem(refused, status, kind)
    assert refused.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
def test_a_request_id_that_is_none_is_replaced(front: LiveServer, given: str) -> None:
    answered = front.call("GET", "/livez", f"X-Request-ID: {given}")
    assert len(answered.headers["x-request-id"]) == 32


def test_a_request_without_a_host_is_passed_on(front: LiveServer) -> None:
    assert front.exchange(b"GET /livez HTTP/1.0\r\n\r\n").status_code == 200


# --- compression ---------------------------------------------------------------------------------


@pytest.fixture
def browser(front: LiveServer) -> Iterator[httpx.Client]:
    """A client that accepts compressed answers."""
    headers = {"Accept-Encoding": "gzip"}
    with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/openapi.yaml", "application/yaml"), ("/openapi.json", "application/json")],
)
def test_json_and_yaml_are_compressed(browser: httpx.Client, path: str, media_type: str) -> None:
    answered = browser.get(path)
    assert answered.headers["content-type"].partition(";")[0] == media_type
    assert answered.headers["content-encoding"] == "gzip"
    assert answered.headers["vary"] == "Accept-Encoding, Origin"
    assert answered.num_bytes_downloaded < len(answered.content) / 2


def test_a_change_is_conditional_on_the_etag_property_of_a_compressed_answer(
    browser: httpx.Client,
) -> None:
    long = {"title": "Buy milk", "description": "and bread, " * 200}
    path = browser.post(ALICE, json=long).headers["location"]
    read = browser.get(path)
    etag = read.json()["etag"]
    assert read.headers["content-encoding"] == "gzip"
    assert read.headers["etag"] == f"W/{etag}"

    unchanged = browser.get(path, headers={"If-None-Match": read.headers["etag"]})
    assert unchanged.status_code == 304
    patch = {"completed": True}
    weak = browser.patch(path, headers={"If-Match": read.headers["etag"]}, json=patch)
    assert_problem(weak, 412, "precondition-failed")
    assert browser.patch(path, headers={"If-Match": etag}, json=patch).status_code == 200
    assert browser.patch(path, headers={"If-Match": etag}, json=patch).status_code == 412


# --- nginx's own answers -------------------------------------------------------------------------

HELD = ("Host: tasks.test", "X-Request-ID: mine", f"Origin: {PAGE}")
TRACE = "0af7651916cd43dd8448eb211c80319c"
GET = "GET /livez HTTP/1.1"
TLS = bytes.fromhex("16030100a5010000a10303").decode("latin-1") + "a" * 160


def raw(line: str, *fields: str) -> bytes:
    """A request with this line, which need not be one."""
    return "\r\n".join([line, *HELD, *fields, "", ""]).encode("latin-1")


def shortened(value: object) -> str | None:
    """A long text as the name of a case."""
    return ascii(value[:40]) if isinstance(value, str) else None


@pytest.mark.parametrize(
    ("line", "status", "kind"),
    [
        ("GET /users/50%/tasks HTTP/1.1", 400, "malformed-request"),
        ("GET /%00 HTTP/1.1", 400, "malformed-request"),
        ("GET /../x HTTP/1.1", 400, "malformed-request"),
        ("GET /a b HTTP/1.1", 400, "malformed-request"),
        ("OPTIONS * HTTP/1.1", 400, "malformed-request"),
        ("get /livez HTTP/1.1", 400, "malformed-request"),
        ("CONNECT tasks.test:443 HTTP/1.1", 400, "malformed-request"),
        ("PRI * HTTP/2.0", 400, "malformed-request"),
        (TLS, 400, "malformed-request"),
        ("\xff\xfe\xfd", 400, "malformed-request"),
        ("GET /" + "a" * 40_000 + " HTTP/1.1", 431, "header-fields-too-large"),
        ("GET /livez HTTP/3.0", 505, None),
    ],
    ids=shortened,
)
def test_a_request_line_that_cannot_be_read_is_a_problem(
    front: LiveServer, line: str, status: int, kind: str | None
) -> None:
    refused = front.exchange(raw(line))
    assert_is(refused, status, kind)
    # nginx has not read the header fields: it knows neither the request's id nor its origin.
    assert len(refused.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("line", "field", "status", "kind"),
    [
        ("TRACE /livez HTTP/1.1", "A: a", 405, "method-not-allowed"),
        ("CONNECT /livez HTTP/1.1", "A: a", 405, "method-not-allowed"),
        (GET, "Host: b", 400, "malformed-request"),
        (GET, "Content-Length: x", 400, "malformed-request"),
        (GET, "a b: c", 400, "malformed-request"),
        (GET, "X: " + "a" * 40_000, 431, "header-fields-too-large"),
        (GET, "Transfer-Encoding: gzip, chunked", 501, "not-implemented"),
        (f"POST {ALICE} HTTP/1.1", "Content-Length: 131073", 413, "content-too-large"),
        ("GET /.problem HTTP/1.1", "A: a", 404, "path-not-found"),
    ],
    ids=shortened,
)
def test_a_page_can_read_every_other_answer_of_nginx(
    front: LiveServer, line: str, field: str, status: int, kind: str | None
) -> None:
    method, target, _ = line.split()
    traced = raw(line, f"traceparent: 00-{TRACE}-b7ad6b7169203331-01", field)
    refused = front.exchange(traced, method=method, target=target)
    assert_is(refused, status, kind)
    assert refused.headers["x-request-id"] == "mine"
    assert refused.json()["trace_id"] == TRACE
    assert refused.headers["access-control-allow-origin"] == PAGE
    exposed = "ETag, Location, Retry-After, X-Request-ID"
    assert refused.headers["access-control-expose-headers"] == exposed
    foreign = traced.replace(PAGE.encode(), b"https://evil.example")
    hidden = front.exchange(foreign, method=method, target=target)
    assert hidden.status_code == status
    assert [name for name in hidden.headers if name.startswith("access-control-")] == []


@pytest.mark.parametrize("path", [*OpenAPIDocument.load().document["paths"], "/docs"])
def test_nginx_refuses_trace_with_the_methods_that_the_service_has(
    front: LiveServer, path: str
) -> None:
    target = path.format(user_id="alice", task_id="0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
    refused = front.call("TRACE", target)
    assert refused.headers["allow"] == front.call("OPTIONS", target).headers["allow"]


def test_a_body_that_is_too_large_is_the_same_problem_before_it_arrives(front: LiveServer) -> None:
    refused = front.exchange(
        request("POST", ALICE, JSON, "X-Request-ID: mine", "Content-Length: 131073"),
        method="POST",
        target=ALICE,
    )
    assert_problem(refused, 413, "content-too-large")
    assert_has_fields(refused)
    assert refused.headers["x-request-id"] == "mine"


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
        slow = [stack.enter_context(front.connect()) for _ in range(OF_ONE_ADDRESS + 10)]
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
    front: LiveServer, sent: bytes, record_property: Callable[[str, object], None]
) -> None:
    with front.connect() as connection:
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
    with front.connect() as connection:
        connection.sendall(request("GET", ALICE, "X-Request-ID: mine"))
        answered = read_response(connection)
    assert answered.status_code == 502
    assert answered.json()["type"] == "about:blank"
    assert_has_fields(answered)
    assert answered.headers["x-request-id"] == "mine"
    assert answered.headers["retry-after"] == "1"
