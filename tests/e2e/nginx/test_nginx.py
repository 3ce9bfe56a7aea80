"""Tests of two replicas behind nginx with `deploy/nginx.conf`. Run by `task check:nginx`."""

from __future__ import annotations

import json
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
from bench.load.workload import memory, open_files
from tests.e2e.nginx.proxy import nginx
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, request
from tests.support.process import Service, eventually, serving

pytestmark = [pytest.mark.requirement("NFR-017"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
SMALL = b'{"title": "Buy milk"}'
MAX_CONNECTIONS_PER_ADDRESS = 100  # limit_conn
PAGE = "https://app.example"


class Balanced(NamedTuple):
    """nginx and its two replicas."""

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


def assert_nginx_problem(response: httpx.Response, status: int, slug: str | None) -> None:
    """Check a problem from nginx, with a problem type of the service or about:blank."""
    assert_common_headers(response)
    assert response.status_code == response.json()["status"] == status
    assert response.json()["type"] == (f"/problems/{slug}" if slug else "about:blank")
    assert response.headers["vary"] == "Origin"


def assert_common_headers(response: httpx.Response) -> None:
    """Check the headers that every problem has, also one from nginx."""
    assert response.headers["x-request-id"] == response.json()["instance"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["content-type"] == "application/problem+json"


# --- forwarded responses -------------------------------------------------------------------------


def test_response_is_forwarded_unchanged(front: LiveServer) -> None:
    response = front.call("POST", ALICE, JSON, "X-Request-ID: mine", body=SMALL)
    assert response.status_code == 201
    assert response.headers["x-request-id"] == "mine"
    found = front.call("GET", response.headers["location"])
    assert (found.status_code, found.json()) == (200, response.json())
    assert found.headers["etag"] == response.json()["etag"]


@pytest.mark.parametrize(
    ("method", "target", "status", "slug"),
    [
        ("GET", "/nope", 404, "path-not-found"),
        ("GET", "//livez", 404, "path-not-found"),
        ("GET", ALICE.replace("/tasks", "%2Ftasks"), 405, "method-not-allowed"),  # of a user
        ("DELETE", ALICE, 405, "method-not-allowed"),
    ],
)
def test_problem_is_forwarded_unchanged(
    front: LiveServer, method: str, target: str, status: int, slug: str
) -> None:
    rejected = front.call(method, target, "X-Request-ID: mine")
    assert_problem(rejected, status, slug)
    assert rejected.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129])
def test_invalid_request_id_is_replaced(front: LiveServer, request_id: str) -> None:
    response = front.call("GET", "/livez", f"X-Request-ID: {request_id}")
    assert len(response.headers["x-request-id"]) == 32


def test_request_without_host_is_forwarded(front: LiveServer) -> None:
    assert front.exchange(b"GET /livez HTTP/1.0\r\n\r\n").status_code == 200


# --- compression ---------------------------------------------------------------------------------


@pytest.fixture
def browser(front: LiveServer) -> Iterator[httpx.Client]:
    """Yield a client that accepts compressed responses."""
    headers = {"Accept-Encoding": "gzip"}
    with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/openapi.yaml", "application/yaml"), ("/openapi.json", "application/json")],
)
def test_json_and_yaml_are_compressed(browser: httpx.Client, path: str, media_type: str) -> None:
    response = browser.get(path)
    assert response.headers["content-type"].partition(";")[0] == media_type
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == "Accept-Encoding, Origin"
    assert response.num_bytes_downloaded < len(response.content) / 2


@pytest.mark.requirement("FR-231")
def test_export_is_compressed_and_complete(browser: httpx.Client) -> None:
    browser.post(f"{ALICE}/batch", json={"create": [{"title": "Buy milk"}] * 100})
    with browser.stream("GET", "/api/v1/users/alice/export") as response:
        lines = [json.loads(line) for line in response.iter_lines()]
        assert response.headers["content-encoding"] == "gzip"
    assert len(lines) > 100
    assert lines[-1] == {"kind": "end", "lines": len(lines) - 1}


def test_etag_property_of_a_compressed_response_works_in_if_match(
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


# --- responses of nginx --------------------------------------------------------------------------

COMMON_HEADERS = ("Host: tasks.test", "X-Request-ID: mine", f"Origin: {PAGE}")
TRACE = "0af7651916cd43dd8448eb211c80319c"
GET = "GET /livez HTTP/1.1"
TLS = bytes.fromhex("16030100a5010000a10303").decode("latin-1") + "a" * 160


def raw(line: str, *headers: str) -> bytes:
    """Encode a request with this request line, which may be invalid."""
    return "\r\n".join([line, *COMMON_HEADERS, *headers, "", ""]).encode("latin-1")


def shorten(value: object) -> str | None:
    """Shorten a long text for the ID of a test case."""
    return ascii(value[:40]) if isinstance(value, str) else None


@pytest.mark.parametrize(
    ("line", "status", "slug"),
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
    ids=shorten,
)
def test_invalid_request_line_is_a_problem(
    front: LiveServer, line: str, status: int, slug: str | None
) -> None:
    rejected = front.exchange(raw(line))
    assert_nginx_problem(rejected, status, slug)
    # nginx has not read the headers, so it knows neither the request ID nor the origin.
    assert len(rejected.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("line", "header", "status", "slug"),
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
    ids=shorten,
)
def test_other_nginx_problems_have_cors_headers(
    front: LiveServer, line: str, header: str, status: int, slug: str | None
) -> None:
    method, target, _ = line.split()
    traced = raw(line, f"traceparent: 00-{TRACE}-b7ad6b7169203331-01", header)
    rejected = front.exchange(traced, method=method, target=target)
    assert_nginx_problem(rejected, status, slug)
    assert rejected.headers["x-request-id"] == "mine"
    assert rejected.json()["trace_id"] == TRACE
    assert rejected.headers["access-control-allow-origin"] == PAGE
    exposed = "ETag, Location, Retry-After, X-Request-ID"
    assert rejected.headers["access-control-expose-headers"] == exposed
    foreign = traced.replace(PAGE.encode(), b"https://evil.example")
    hidden = front.exchange(foreign, method=method, target=target)
    assert hidden.status_code == status
    assert [name for name in hidden.headers if name.startswith("access-control-")] == []


@pytest.mark.parametrize("path", [*OpenAPIDocument.load().document["paths"], "/docs"])
def test_trace_is_rejected_with_the_allowed_methods(front: LiveServer, path: str) -> None:
    id_ = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
    target = path.format(user_id="alice", task_id=id_, list_id=id_)
    rejected = front.call("TRACE", target)
    assert rejected.headers["allow"] == front.call("OPTIONS", target).headers["allow"]


def test_too_large_body_is_rejected_before_it_is_sent(front: LiveServer) -> None:
    rejected = front.exchange(
        request("POST", ALICE, JSON, "X-Request-ID: mine", "Content-Length: 131073"),
        method="POST",
        target=ALICE,
    )
    assert_problem(rejected, 413, "content-too-large")
    assert_common_headers(rejected)
    assert rejected.headers["x-request-id"] == "mine"


@pytest.mark.requirement("FR-230")
def test_batch_may_be_larger_than_other_bodies(front: LiveServer) -> None:
    path = f"{ALICE}/batch"
    tasks = [{"title": "Buy milk", "description": "x" * 16_000}] * 20
    changed = front.call("POST", path, JSON, body=json.dumps({"create": tasks}).encode())
    assert changed.status_code == 200
    too_large = request("POST", path, JSON, "Content-Length: 1048577")
    rejected = front.exchange(too_large, method="POST", target=path)
    assert_nginx_problem(rejected, 413, "content-too-large")
    assert rejected.json()["detail"] == "The request body exceeds 1048576 bytes."


# --- slow clients --------------------------------------------------------------------------------


def with_response(connections: list[socket.socket]) -> list[socket.socket]:
    """Return the connections that have received data."""
    return select.select(connections, [], [], 0)[0]


def test_slow_bodies_are_buffered_and_limited_per_address(
    balanced: Balanced, record_property: Callable[[str, object], None]
) -> None:
    front, replicas = balanced
    before = [memory(service.pid) for service in replicas]
    headers = request("POST", ALICE, JSON, "Content-Length: 21")
    with ExitStack() as stack:
        slow = [
            stack.enter_context(front.connect()) for _ in range(MAX_CONNECTIONS_PER_ADDRESS + 10)
        ]
        for connection in slow:
            connection.sendall(headers)
        # nginx's workers accept connections in any order.
        eventually(lambda: len(with_response(slow)) == len(slow) - MAX_CONNECTIONS_PER_ADDRESS)
        responded = with_response(slow)
        rejected = [read_response(connection, "POST") for connection in responded]
        next(connection for connection in slow if connection not in responded).close()
        time.sleep(0.2)
        assert front.call("GET", ALICE).status_code == 200
    for response in rejected:
        assert_problem(response, 503, "overloaded")
        assert_common_headers(response)
        assert response.headers["retry-after"] == "1"
    growth = [memory(service.pid) - was for service, was in zip(replicas, before, strict=True)]
    record_property("memory growth of each replica during slow bodies", growth)
    assert max(growth) < 2**20


@pytest.mark.parametrize(
    "sent", [b"GET /livez HTTP/1.1\r\nX: a", request("POST", ALICE, JSON, "Content-Length: 21")]
)
def test_stalled_request_is_closed(
    front: LiveServer, sent: bytes, record_property: Callable[[str, object], None]
) -> None:
    with front.connect() as connection:
        connection.settimeout(20)
        connection.sendall(sent)
        started = time.monotonic()
        with suppress(ConnectionResetError):  # unsent data resets the connection
            assert connection.recv(1) == b""
        seconds = time.monotonic() - started
    record_property("seconds until nginx closes a stalled request", round(seconds, 1))
    assert 9 < seconds < 15


def test_idle_connections_do_not_block_requests(balanced: Balanced) -> None:
    front, replicas = balanced
    before = [memory(service.pid) for service in replicas]
    with ExitStack() as stack:
        for _ in range(900):  # below the default limit of open files
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
        assert front.call("GET", ALICE).status_code == 200
        growth = [memory(service.pid) - was for service, was in zip(replicas, before, strict=True)]
    assert max(growth) < 2**20


# --- waiting requests ----------------------------------------------------------------------------

CHANGES = "/api/v1/users/alice/changes"


def begin_wait(connection: socket.socket, data: bytes) -> None:
    """Send a request that waits. Repeat it while the replicas reject it, before it waits."""
    is_waiting = False
    while not is_waiting:
        connection.sendall(data)
        time.sleep(0.05)
        is_waiting = not with_response([connection])
        if not is_waiting:
            assert_problem(read_response(connection), 503, "overloaded")


@pytest.mark.requirement("FR-215", "FR-216")
def test_waiting_requests_use_up_no_limit(front: LiveServer) -> None:
    since = front.call("GET", CHANGES).json()["next_since"]
    wait = request("GET", f"{CHANGES}?wait=30&since={since}")
    with ExitStack() as stack:
        # More than the limits of nginx for other requests, and of the replicas, which are two.
        waiting = [
            stack.enter_context(front.connect()) for _ in range(MAX_CONNECTIONS_PER_ADDRESS + 5)
        ]
        for connection in waiting:
            begin_wait(connection, wait)
        assert with_response(waiting) == []
        task = front.call("POST", ALICE, JSON, body=SMALL).json()
        for connection in waiting:
            (item,) = read_response(connection).json()["items"]
            assert item["id"] == task["id"]


@pytest.mark.requirement("FR-215")
def test_longest_wait_ends_with_a_response_of_the_service(front: LiveServer) -> None:
    front.call("POST", ALICE, JSON, body=SMALL)
    since = front.call("GET", CHANGES).json()["next_since"]
    with front.connect() as connection:
        connection.settimeout(40)
        started = time.monotonic()
        connection.sendall(request("GET", f"{CHANGES}?wait=30&since={since}"))
        response = read_response(connection)
        assert 30 <= time.monotonic() - started < 35
    front.contract.check("GET", CHANGES, response)
    assert response.json() == {"items": [], "next_since": since, "has_more": False}


@pytest.mark.requirement("FR-216")
def test_disconnected_client_does_not_wait_any_longer(balanced: Balanced) -> None:
    front, replicas = balanced

    def connections() -> int:
        return sum(open_files(service.pid) for service in replicas)

    since = front.call("GET", CHANGES).json()["next_since"]
    with ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(front.connect())
            begin_wait(connection, request("GET", f"{CHANGES}?wait=30&since={since}"))
        during = connections()
    eventually(lambda: connections() <= during - 40, timeout=10)


# --- stopped replicas: last, because they are not restarted --------------------------------------


async def test_failover_to_one_replica_and_502_without_replicas(
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
        response = read_response(connection)
    assert response.status_code == 502
    assert response.json()["type"] == "about:blank"
    assert_common_headers(response)
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["retry-after"] == "1"
