"""Clients with incomplete or endless requests, and slow readers, over real sockets."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg
import httpx
import pytest

from app import cli
from app.server import protocol, server
from app.server.parser import MAX_TOTAL_FRAMING_BYTES
from app.server.protocol import MAX_PIPELINED_REQUESTS, ConnectionState, HTTPProtocol
from app.settings import Settings
from bench.load.workload import peak_memory
from tests.contract.test_responses import ONE
from tests.support.client import assert_problem, tasks_of
from tests.support.live import LiveServer, read_response, read_responses, request, serve_in_thread
from tests.support.process import eventually, execute, serving

pytestmark = [pytest.mark.requirement("FR-048"), pytest.mark.usefixtures("database")]

ALICE = tasks_of("alice")
JSON = "Content-Type: application/json"
READERS = [("POST", ALICE), ("PUT", ONE), ("PATCH", ONE)]
SHORT = 0.3  # seconds


class PausingProtocol(HTTPProtocol):
    """A protocol that blocks the whole process while it reads, like a paused machine.

    Afterwards, due timers run before the data of other connections is read.
    """

    def data_received(self, data: bytes) -> None:
        if b"/pause" in data:
            time.sleep(4 * SHORT)
        super().data_received(data)


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    """A service that checks its connections ten times as often, with short timeouts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "CHECK_INTERVAL", SHORT / 3)
        for state in ConnectionState:
            patched.setitem(protocol.STATE_TIMEOUTS, state, SHORT)  # KEEP_ALIVE has no entry
        patched.setattr(cli, "HTTPProtocol", PausingProtocol)
        with serve_in_thread(settings) as opened:
            yield opened


def trickle(connection: socket.socket, piece: bytes) -> None:
    """Send a piece repeatedly until the server closes the connection."""

    def go_on() -> None:
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    with pytest.raises(ConnectionError):
        go_on()


def read_rest(connection: socket.socket) -> bytes:
    """Read until the end of the connection."""
    with connection.makefile("rb") as stream:
        return stream.read()


def read_timeout_response(
    live: LiveServer, data: bytes, method: str = "GET", target: str = "/livez"
) -> httpx.Response:
    """Check that the last response on a connection is 408."""
    with live.connect() as connection:
        connection.sendall(data)
        response = read_response(connection, method)
        assert read_rest(connection) == b""
    live.contract.check(method, target, response)
    return response


def test_new_idle_connection_is_closed_without_a_response(live: LiveServer) -> None:
    with live.connect() as connection:
        assert read_rest(connection) == b""


def test_keep_alive_connection_is_closed_without_a_response(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).status_code == 200
        assert read_rest(connection) == b""


def test_requests_sent_while_the_process_is_paused_are_served(live: LiveServer) -> None:
    with live.connect() as connection, live.connect() as other:
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).status_code == 200
        time.sleep(SHORT / 2)  # idle, but shorter than the timeout
        other.sendall(request("GET", "/pause"))
        time.sleep(SHORT / 2)
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).status_code == 200


def test_empty_lines_do_not_start_a_request(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("GET", "/livez"))
        assert read_response(connection).status_code == 200
        trickle(connection, b"\r\n")


@pytest.mark.parametrize("data", [b"G", b"GET /livez HTTP/1.1\r\nX: a"], ids=["a byte", "a field"])
def test_incomplete_headers_are_408(live: LiveServer, data: bytes) -> None:
    response = read_timeout_response(live, data)
    assert_problem(response, 408, "request-timeout")
    assert response.headers["connection"] == "close"


def test_endless_headers_are_408(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        trickle(connection, b"a")


@pytest.mark.parametrize(("method", "target"), READERS)
@pytest.mark.parametrize("declared", ["Content-Length: 21", "Transfer-Encoding: chunked"])
async def test_incomplete_body_is_408(
    live: LiveServer, database: asyncpg.Connection, method: str, target: str, declared: str
) -> None:
    response = read_timeout_response(live, request(method, target, JSON, declared), method, target)
    assert_problem(response, 408, "request-timeout")
    assert await database.fetchval("SELECT count(*) FROM tasks") == 0


def test_endless_slow_body_is_408(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("POST", ALICE, JSON, "Transfer-Encoding: chunked"))
        trickle(connection, b"1\r\n \r\n")


@pytest.mark.parametrize("declared", ["Content-Length: 21", "Transfer-Encoding: chunked"])
def test_unread_incomplete_body_closes_the_connection(live: LiveServer, declared: str) -> None:
    with live.connect() as connection:
        connection.sendall(request("GET", ALICE, declared))
        assert read_response(connection).status_code == 200
        assert read_rest(connection) == b""


@pytest.mark.requirement("FR-025")
def test_bytes_read_after_the_response_are_limited(live: LiveServer) -> None:
    chunks = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    chunks *= 64 * MAX_TOTAL_FRAMING_BYTES // len(chunks)
    with live.connect() as connection:
        connection.sendall(request("POST", ALICE, JSON, "Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):
            connection.sendall(chunks)


def test_first_pipelined_requests_get_responses(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(request("GET", "/livez") * 3_000)
        responses = read_responses(connection, *["GET"] * MAX_PIPELINED_REQUESTS)
    assert [response.status_code for response in responses] == [200] * MAX_PIPELINED_REQUESTS
    closes = [response.headers.get("connection") for response in responses]
    assert closes == [None] * (MAX_PIPELINED_REQUESTS - 1) + ["close"]


def test_pipelined_requests_up_to_the_limit_keep_the_connection(live: LiveServer) -> None:
    with live.connect() as connection:
        for _ in range(2):
            connection.sendall(request("GET", "/livez") * MAX_PIPELINED_REQUESTS)
            responses = read_responses(connection, *["GET"] * MAX_PIPELINED_REQUESTS)
            assert {response.headers.get("connection") for response in responses} == {None}


def test_other_clients_are_served_meanwhile(live: LiveServer) -> None:
    with live.connect() as silent, live.connect() as incomplete:
        incomplete.sendall(b"GET /livez HTTP/1.1\r\n")
        assert live.call("GET", ALICE).status_code == 200
        assert read_rest(silent) == b""


# --- memory --------------------------------------------------------------------------------------

# A page of almost 1 MiB, which is the maximum. The kernel buffers a part of it per client.
BIG_PAGE = f"{ALICE}?limit=20"
BIG = """
    INSERT INTO tasks (user_id, id, title, description, created_at, updated_at, etag)
    SELECT 'alice', gen_random_uuid(), 'Buy milk', repeat('\U0001f95b', 16384),
           now(), now(), gen_random_uuid()
    FROM generate_series(1, 20)
"""
EXPORTED = BIG.replace("20)", "400)")  # 26 MB


@pytest.mark.requirement("FR-232")
def test_export_may_take_longer_than_the_timeout_of_a_part(
    live: LiveServer, database_url: str
) -> None:
    execute(database_url, EXPORTED)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(request("GET", "/api/v1/users/alice/export", "Connection: close"))
        started_at = time.monotonic()
        received, last = 0, b""
        while chunk := connection.recv(65536):
            received, last = received + len(chunk), (last + chunk)[-100:]
            time.sleep(len(chunk) / 2**20 * SHORT / 3)
    assert time.monotonic() - started_at > 4 * SHORT
    assert received > 400 * 65536
    assert b'{"kind":"end","lines":400}' in last


SLOW_READERS = 200
ACTIVE_READERS = 16
CONTAINER_BYTES = 256 * 2**20  # the memory limit in deploy/


@pytest.mark.requirement("NFR-017")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_for_slow_readers_is_bounded(
    database_url: str,
) -> None:
    execute(database_url, BIG)
    with ExitStack() as stack:
        service = stack.enter_context(
            serving(DATABASE_URL=database_url, MAX_CONCURRENT_REQUESTS=1000)
        )
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        readers = [
            stack.enter_context(socket.create_connection(address, timeout=30))
            for _ in range(ACTIVE_READERS)
        ]
        for number in range(SLOW_READERS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address)
            connection.sendall(request("GET", BIG_PAGE) * 6)
            if (
                number % ACTIVE_READERS == 0
            ):  # batches, so that no request exceeds the database timeout
                eventually(lambda: all_receive_page(readers), 60)
        eventually(lambda: all_receive_page(readers), 60)
        assert peak_memory(service.pid) < CONTAINER_BYTES


def all_receive_page(readers: list[socket.socket]) -> bool:
    """Request a page from all clients concurrently, and return whether all succeed."""
    for reader in readers:
        reader.sendall(request("GET", BIG_PAGE))
    pages = [read_response(reader) for reader in readers]
    return all(page.status_code == 200 and len(page.content) > 900_000 for page in pages)
