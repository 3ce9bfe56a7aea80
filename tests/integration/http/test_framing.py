"""HTTP/1.1 framing over real sockets: which requests exist, and the order of their responses."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from litestar import get, post
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.response import Response, Stream

from app.settings import Settings
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, read_responses, request, serve_in_thread

pytestmark = pytest.mark.usefixtures("database")

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
SMALL = b'{"title": "Buy milk"}'
CHUNKS = b"%x\r\n%b\r\n0\r\n" % (len(SMALL), SMALL)
ALIVE = request("GET", "/livez")
CREATE = request("POST", ALICE, JSON, body=SMALL)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    with serve_in_thread(msgspec.structs.replace(settings, cors_origins=(ORIGIN,))) as server:
        yield server


def send(connection: socket.socket, *segments: bytes) -> None:
    """Send segments so that the server reads each one separately."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for segment in segments:
        connection.sendall(segment)
        time.sleep(0.03)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed the connection and sent nothing more."""
    return connection.recv(1) == b""


async def titles(database: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await database.fetch("SELECT user_id, title FROM tasks ORDER BY created_at")
    return [(row["user_id"], row["title"]) for row in rows]


# --- Upgrade and CONNECT -------------------------------------------------------------------------

UPGRADES = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA"),
    "websocket": ("Connection: upgrade", "Upgrade: websocket"),
    "keep-alive": ("Connection: keep-alive, Upgrade", "Upgrade: x/1, y"),
}
BODIES = {
    "length": (f"Content-Length: {len(SMALL)}", SMALL),
    "chunks": (CHUNKED, CHUNKS + b"\r\n"),
    "chunks and trailer": (CHUNKED, CHUNKS + b"X: y\r\n\r\n"),
}


@pytest.mark.requirement("FR-001", "FR-035")
@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    "truncated", [None, 0, 5], ids=["one segment", "body later", "body in parts"]
)
async def test_upgrade_is_ignored_and_the_body_is_read(
    live: LiveServer,
    database: asyncpg.Connection,
    upgrade: tuple[str, ...],
    framing: str,
    body: bytes,
    truncated: int | None,
) -> None:
    head = request("POST", ALICE, JSON, framing, *upgrade)
    data = head + body + ALIVE
    at = len(head) + truncated if truncated is not None else len(data)
    with live.connect() as connection:
        send(connection, data[:at], data[at:])
        created, alive = read_responses(connection, "POST", "GET")
    live.contract.check("POST", ALICE, created)
    assert (created.status_code, alive.status_code) == (201, 200)
    assert await titles(database) == [("alice", "Buy milk")]


@pytest.mark.requirement("FR-020", "FR-035")
@pytest.mark.parametrize("truncated", [False, True], ids=["one segment", "body later"])
async def test_body_after_an_upgrade_is_not_a_request(
    live: LiveServer, database: asyncpg.Connection, *, truncated: bool
) -> None:
    inner = request("POST", tasks_of("mallory"), JSON, body=SMALL)
    head = request("POST", ALICE, JSON, f"Content-Length: {len(inner)}", *UPGRADES["websocket"])
    with live.connect() as connection:
        send(connection, *([head, inner] if truncated else [head + inner]), ALIVE)
        response, alive = read_responses(connection, "POST", "GET")
    assert_problem(response, 400, "malformed-body")
    assert alive.json() == {"status": "alive"}
    assert await titles(database) == []


@pytest.mark.requirement("FR-035")
def test_pipelined_upgrades_get_ordered_responses(live: LiveServer) -> None:
    targets = ["/livez", "/nope", "/livez?x=1", "/livez"]
    with live.connect() as connection:
        connection.sendall(b"".join(request("GET", target, *UPGRADES["h2c"]) for target in targets))
        responses = read_responses(connection, *["GET"] * 4)
    assert [response.status_code for response in responses] == [200, 404, 400, 200]


@pytest.mark.requirement("FR-027", "FR-030")
@pytest.mark.parametrize("truncated", [False, True], ids=["one segment", "body later"])
async def test_connect_is_501_and_closes_the_connection(
    live: LiveServer, database: asyncpg.Connection, *, truncated: bool
) -> None:
    head = request("CONNECT", "tasks.test:80", f"Content-Length: {len(CREATE)}")
    with live.connect() as connection:
        send(connection, ALIVE, head if truncated else head + CREATE)
        alive, response = read_responses(connection, "GET", "GET")
        assert is_closed(connection)
    assert alive.status_code == 200
    assert_problem(response, 501, "not-implemented")
    assert response.headers["connection"] == "close"
    assert await titles(database) == []


# --- trailers ------------------------------------------------------------------------------------


async def token_required(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    if connection.headers.get("authorization") != "Bearer a1":
        raise NotAuthorizedException("Send a bearer token.")


def chunked_create(*trailer: str, headers: tuple[str, ...] = (JSON,)) -> bytes:
    end = "".join(f"{header}\r\n" for header in trailer) + "\r\n"
    return request("POST", ALICE, *headers, CHUNKED) + CHUNKS + end.encode()


@pytest.mark.requirement("FR-020", "FR-023")
async def test_credential_in_a_trailer_is_ignored(
    settings: Settings, database: asyncpg.Connection
) -> None:
    credential = "Authorization: Bearer a1"
    with (
        serve_in_thread(settings, guards=[token_required]) as guarded,
        guarded.connect() as connection,
    ):
        # Both requests are in one segment, so the trailer is parsed before the guard runs.
        connection.sendall(chunked_create(credential) + chunked_create(headers=(JSON, credential)))
        responses = read_responses(connection, "POST", "POST")
    assert [response.status_code for response in responses] == [401, 201]
    assert len(await titles(database)) == 1


@pytest.mark.requirement("FR-023", "FR-024")
def test_media_type_in_a_trailer_is_ignored(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(chunked_create(JSON, headers=()))
        response = read_response(connection, "POST")
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.requirement("FR-023")
async def test_idempotency_key_in_a_trailer_is_ignored(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    with live.connect() as connection:
        connection.sendall(chunked_create("Idempotency-Key: 1") * 2)
        responses = read_responses(connection, "POST", "POST")
    assert [response.status_code for response in responses] == [201, 201]
    assert len(await titles(database)) == 2


# --- order ---------------------------------------------------------------------------------------

BROKEN = {
    "garbage": (b"Buy milk\r\n\r\n", False, 400, "malformed-request"),
    "large fields": (
        b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        False,
        431,
        "header-fields-too-large",
    ),
    "an incomplete header section": (b"GET / HTTP/1.1\r\nHo", True, 400, "malformed-request"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", False, 400, "malformed-request"),
}


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize(("rest", "half_close", "status", "slug"), BROKEN.values(), ids=BROKEN)
async def test_pipelined_error_is_sent_after_the_first_response(
    live: LiveServer,
    database: asyncpg.Connection,
    rest: bytes,
    status: int,
    slug: str,
    *,
    half_close: bool,
) -> None:
    with live.connect() as connection:
        connection.sendall(CREATE + CREATE + rest)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        *created, response = read_responses(connection, "POST", "POST", "GET")
        assert is_closed(connection)
    assert [response.status_code for response in created] == [201, 201]
    assert_problem(response, status, slug)
    assert response.headers["connection"] == "close"
    assert len(await titles(database)) == 2


@pytest.mark.requirement("FR-023")
async def test_invalid_chunks_of_a_second_request_wait_for_the_first(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    with live.connect() as connection:
        connection.sendall(CREATE + request("POST", ALICE, JSON, CHUNKED) + b"zz\r\n")
        created, response = read_responses(connection, "POST", "POST")
        assert is_closed(connection)
    assert created.status_code == 201
    assert_problem(response, 400, "malformed-request")
    assert len(await titles(database)) == 1


# --- Expect --------------------------------------------------------------------------------------

EXPECT = ("Expect: 100-continue", f"Content-Length: {len(ALIVE)}")
EARLY = {
    "400": ("POST", ALICE + "?x=1", (JSON, *EXPECT), 400),
    "404": ("POST", "/nope", (JSON, *EXPECT), 404),
    "405": ("PUT", ALICE, (JSON, *EXPECT), 405),
    "413": ("POST", ALICE, (JSON, EXPECT[0], "Content-Length: 131073"), 413),
    "415": ("POST", ALICE, ("Content-Type: text/plain", *EXPECT), 415),
}


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize(("method", "target", "fields", "status"), EARLY.values(), ids=EARLY)
def test_early_rejection_of_expect_closes_the_connection(
    live: LiveServer, method: str, target: str, fields: tuple[str, ...], status: int
) -> None:
    with live.connect() as connection:
        connection.sendall(request(method, target, *fields))
        response = read_response(connection, method)
        assert is_closed(connection)
    assert (response.status_code, response.headers.get("connection")) == (status, "close")


@pytest.mark.requirement("FR-027", "FR-042")
def test_guard_rejection_of_expect_closes_the_connection(settings: Settings) -> None:
    with (
        serve_in_thread(settings, guards=[token_required]) as guarded,
        guarded.connect() as connection,
    ):
        connection.sendall(request("POST", ALICE, JSON, *EXPECT))
        response = read_response(connection, "POST")
        assert is_closed(connection)
    assert (response.status_code, response.headers["connection"]) == (401, "close")


@pytest.mark.requirement("FR-027")
def test_expect_without_a_body_keeps_the_connection(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("GET", "/livez", "Expect: 100-continue") + ALIVE)
        responses = read_responses(connection, "GET", "GET")
    assert [response.headers.get("connection") for response in responses] == [None, None]


# --- request id and origin of protocol errors ----------------------------------------------------

OWN_HEADERS = (
    "X-Request-ID: mine",
    f"traceparent: 00-{TRACE}-{'1' * 16}-01",
    f"Origin: {ORIGIN}",
)


def assert_own_headers(response: httpx.Response) -> None:
    problem = response.json()
    assert (problem["instance"], problem["trace_id"]) == ("mine", TRACE)
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.requirement("FR-029", "FR-037", "FR-050")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("GET", "/livez", *OWN_HEADERS, "X: y", ": nonsense"), 400),
        (request("GET", "/livez", *OWN_HEADERS, "Host: second"), 400),
        (request("GET", "/livez", *OWN_HEADERS, "X: " + "a" * 40_000), 431),
        (request("POST", ALICE, JSON, *OWN_HEADERS, CHUNKED) + b"zz\r\n", 400),
        (request("POST", ALICE, JSON, *OWN_HEADERS, "Transfer-Encoding: gzip"), 501),
    ],
    ids=["a field", "Host", "431", "a chunk", "501"],
)
def test_rejected_request_keeps_its_ids_and_origin(
    live: LiveServer, data: bytes, status: int
) -> None:
    with live.connect() as connection:
        connection.sendall(data)
        response = read_response(connection)
        assert is_closed(connection)
    assert response.status_code == status
    assert_own_headers(response)


@pytest.mark.requirement("FR-029", "FR-037", "FR-050")
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/livez", *OWN_HEADERS, "X: y")[:-4],
        request("POST", ALICE, JSON, *OWN_HEADERS, "Content-Length: 99") + SMALL,
        request("POST", ALICE, JSON, *OWN_HEADERS, CHUNKED) + b"9\r\n{",
    ],
    ids=["header section", "length", "chunks"],
)
def test_truncated_request_keeps_its_ids_and_origin(live: LiveServer, data: bytes) -> None:
    with live.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        response = read_response(connection, "POST")
        assert is_closed(connection)
    assert response.status_code == 400
    assert_own_headers(response)


# --- Host, transfer codings, methods -------------------------------------------------------------


@pytest.mark.requirement("FR-021", "FR-027")
def test_http_1_1_without_host_is_400(live: LiveServer) -> None:
    assert_problem(live.exchange(b"GET /livez HTTP/1.1\r\n\r\n"), 400, "malformed-request")


CODINGS = {
    "another": ("Transfer-Encoding: gzip",),
    "another before it": ("Transfer-Encoding: gzip, chunked",),
    "in two fields": ("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
    "identity": ("Transfer-Encoding: identity",),
    "a parameter": ("Transfer-Encoding: chunked;x=1",),
}


@pytest.mark.requirement("FR-023", "FR-027")
@pytest.mark.parametrize("fields", CODINGS.values(), ids=CODINGS)
async def test_transfer_coding_other_than_chunked_is_501(
    live: LiveServer, database: asyncpg.Connection, fields: tuple[str, ...]
) -> None:
    data = request("POST", ALICE, JSON, *fields) + CHUNKS + b"\r\n"
    response = live.exchange(data, method="POST", target=ALICE)
    assert_problem(response, 501, "not-implemented")
    assert response.headers["connection"] == "close"
    assert await titles(database) == []


@pytest.mark.requirement("FR-023", "FR-027")
@pytest.mark.parametrize("upgrade", [(), UPGRADES["h2c"]], ids=["plain", "upgrade"])
@pytest.mark.parametrize("length", [0, 5, len(CHUNKS) + 2])
async def test_chunked_with_content_length_is_400_and_not_read(
    live: LiveServer, database: asyncpg.Connection, length: int, upgrade: tuple[str, ...]
) -> None:
    headers = (CHUNKED, f"Content-Length: {length}", *upgrade)
    for order in (headers, headers[::-1]):
        data = request("POST", ALICE, JSON, *order) + CHUNKS + b"\r\n" + CREATE
        response = live.exchange(data, method="POST", target=ALICE)
        assert_problem(response, 400, "malformed-request")
    assert await titles(database) == []


@pytest.mark.requirement("FR-023", "FR-027")
async def test_chunked_http_1_0_is_400(live: LiveServer, database: asyncpg.Connection) -> None:
    data = request("POST", ALICE, JSON, CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKS
    response = live.exchange(data + b"\r\n", method="POST", target=ALICE)
    assert_problem(response, 400, "malformed-request")
    assert await titles(database) == []


@pytest.mark.requirement("FR-027")
@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
def test_other_http_version_is_400(live: LiveServer, version: str) -> None:
    data = f"GET /livez HTTP/{version}\r\nHost: a\r\n\r\n".encode()
    assert_problem(live.exchange(data), 400, "malformed-request")


# Methods of RFC 9110, the IANA registry, other servers and RTSP, and unknown methods.
CANDIDATES = """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY DELETE GET HEAD LABEL LINK LOCK MERGE
    MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI
    PROPFIND PROPPATCH PUT QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK
    UPDATE UPDATEREDIRECTREF VERSION-CONTROL M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE SOURCE
    DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD
    FLUSH BREW get X
""".split()  # noqa: SIM905 - a list would need one line per method
RESPONDED = {"GET": 200, "HEAD": 200, "OPTIONS": 204}


def documented_methods(live: LiveServer) -> set[str]:
    """Read the methods with status 405 from the text of the contract."""
    text = " ".join(live.call("GET", "/openapi.yaml").text.split())
    _, _, rest = text.partition("Other methods are **405** with the same `Allow`: ")
    documented, _, _ = rest.partition(".")
    return set(documented.replace("`", "").replace(" and ", ", ").split(", "))


@pytest.mark.requirement("FR-030")
def test_each_method_gets_the_documented_status(live: LiveServer) -> None:
    documented = documented_methods(live)
    assert len(documented) > 20
    for method in CANDIDATES:
        response = live.call(method, "/livez")
        expected = 405 if method in documented else RESPONDED.get(method, 400)
        assert response.status_code == expected, method
        assert (response.headers.get("allow") == "GET, HEAD, OPTIONS") is (expected in {204, 405})


# --- plug-in responses ---------------------------------------------------------------------------

proceed = threading.Event()
done = threading.Event()


@get("/streamed")
async def streaming_handler() -> Stream:
    async def generate_chunks() -> AsyncGenerator[bytes]:
        await asyncio.to_thread(proceed.wait, 20)
        yield b"piece"

    return Stream(generate_chunks())


@post("/background")
async def background() -> Response[str]:
    async def work() -> None:
        await asyncio.sleep(1.5)
        done.set()

    return Response("accepted", background=BackgroundTask(work))


@pytest.mark.requirement("FR-042")
def test_streaming_response_sends_headers_before_the_first_chunk(
    settings: Settings,
) -> None:
    proceed.clear()
    with (
        serve_in_thread(settings, route_handlers=[streaming_handler]) as live,
        live.connect() as connection,
    ):
        connection.settimeout(3)
        try:
            connection.sendall(request("GET", "/streamed"))
            received = connection.recv(1000)
        finally:
            proceed.set()
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"\r\n\r\n")
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"5\r\npiece\r\n")


@pytest.mark.requirement("FR-042", "NFR-015")
def test_shutdown_waits_for_background_tasks(settings: Settings) -> None:
    done.clear()
    with (
        serve_in_thread(settings, route_handlers=[background]) as live,
        live.connect() as connection,
    ):
        connection.sendall(request("POST", "/background"))
        assert read_response(connection, "POST").status_code == 201
        assert not done.is_set()
    assert done.is_set()
