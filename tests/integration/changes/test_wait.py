"""`wait` of `listChanges`, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from app.domain.changes.repository import ChangeRepository, FeedPage
from app.domain.changes.watcher import MAX_READS, POLL_INTERVAL
from app.settings import Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.database import settings_for
from tests.support.live import (
    LiveServer,
    read_response,
    read_responses,
    request,
    serve_in_thread,
)
from tests.support.process import eventually, serving
from tests.support.recorded_statements import record_statements
from tests.support.relay import Relay, url_via_port

pytestmark = pytest.mark.usefixtures("database")

ALICE = tasks_of("alice")
CHANGES = "/api/v1/users/alice/changes"
JSON = "Content-Type: application/json"
TITLE = b'{"title": "Buy milk"}'
LONG = 30  # seconds
MARGIN = 5.0  # seconds, for a busy machine
SETTLED = 0.5  # seconds until a request has read its first page


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[LiveServer]:
    with serve_in_thread(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def other(settings: Settings) -> Iterator[LiveServer]:
    """Another replica on the same database."""
    with serve_in_thread(settings) as opened:
        yield opened


def feed(since: str | None = None, wait: int = LONG, method: str = "GET") -> bytes:
    query = "" if since is None else f"&since={since}"
    return request(method, f"{CHANGES}?wait={wait}{query}")


def create(server: LiveServer) -> dict[str, Any]:
    response = server.call("POST", ALICE, JSON, body=TITLE)
    assert response.status_code == 201
    task: dict[str, Any] = response.json()
    return task


def token(server: LiveServer) -> str:
    """Return the token after all changes of Alice, who has one change at least."""
    create(server)
    next_since: str = server.call("GET", CHANGES).json()["next_since"]
    return next_since


def waiting(connection: socket.socket, data: bytes) -> socket.socket:
    """Send a request that waits, until it waits."""
    connection.sendall(data)
    time.sleep(SETTLED)
    return connection


def polls(statements: list[str]) -> int:
    return sum("ANY" in statement and "users" in statement for statement in statements)


def checked(response: httpx.Response) -> httpx.Response:
    LiveServer.contract.check("GET", f"{CHANGES}?wait=1", response)
    return response


@pytest.mark.requirement("FR-215")
@pytest.mark.parametrize("writer", ["live", "other"])
def test_change_ends_the_wait(
    live: LiveServer, writer: str, request: pytest.FixtureRequest
) -> None:
    writing: LiveServer = request.getfixturevalue(writer)
    since = token(live)
    with live.connect() as connection:
        waiting(connection, feed(since))
        started = time.monotonic()
        task = create(writing)
        page = checked(read_response(connection)).json()
        assert time.monotonic() - started < MARGIN
    assert [item["id"] for item in page["items"]] == [task["id"]]
    assert not page["has_more"]


@pytest.mark.requirement("FR-215")
@pytest.mark.parametrize("wait", [0, 1])
def test_response_without_items_comes_in_time(live: LiveServer, wait: int) -> None:
    since = token(live)
    started = time.monotonic()
    response = live.call("GET", f"{CHANGES}?wait={wait}&since={since}")
    assert wait <= time.monotonic() - started < wait + MARGIN
    assert response.json() == {"items": [], "next_since": since, "has_more": False}


@pytest.mark.requirement("FR-215")
def test_items_are_returned_without_a_wait(live: LiveServer) -> None:
    create(live)
    started = time.monotonic()
    assert live.call("GET", f"{CHANGES}?wait=30").json()["items"]
    assert time.monotonic() - started < MARGIN


@pytest.mark.requirement("FR-215")
def test_head_waits_as_well(live: LiveServer) -> None:
    since = token(live)
    with live.connect() as connection:
        started = time.monotonic()
        connection.sendall(feed(since, 1, "HEAD"))
        assert read_response(connection, "HEAD").status_code == 200
        assert time.monotonic() - started >= 1


@pytest.mark.requirement("FR-215")
def test_first_change_of_a_user_ends_the_wait(live: LiveServer, other: LiveServer) -> None:
    with live.connect() as connection, live.connect() as empty_copy:
        waiting(connection, feed())
        waiting(empty_copy, feed(live.call("GET", CHANGES).json()["next_since"]))
        task = create(other)
        for each in (connection, empty_copy):
            page = checked(read_response(each)).json()
            assert [item["id"] for item in page["items"]] == [task["id"]]


@pytest.mark.requirement("FR-212", "FR-235")
def test_erasure_ends_the_wait_with_410(live: LiveServer, other: LiveServer) -> None:
    since = token(live)
    with live.connect() as connection:
        waiting(connection, feed(since))
        assert other.call("DELETE", "/api/v1/users/alice").status_code == 204
        assert_problem(checked(read_response(connection)), 410, "token-expired")


@pytest.mark.requirement("FR-205", "FR-212")
async def test_new_epoch_ends_the_wait_with_410(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    since = token(live)
    with live.connect() as connection:
        waiting(connection, feed(since))
        await database.execute("UPDATE users SET epoch = gen_random_uuid()")
        response = await asyncio.to_thread(read_response, connection)
        assert_problem(checked(response), 410, "token-expired")


@pytest.mark.requirement("FR-215")
async def test_change_without_an_item_does_not_end_the_wait(
    live: LiveServer, database: asyncpg.Connection
) -> None:
    since = token(live)
    with live.connect() as connection:
        started = time.monotonic()
        waiting(connection, feed(since, 2))
        await database.execute("UPDATE users SET revision = revision + 1")
        page = (await asyncio.to_thread(read_response, connection)).json()
        assert time.monotonic() - started >= 2
    assert page["items"] == []
    assert page["next_since"] != since


async def test_another_server_waits_too(client: ContractClient) -> None:
    response = await client.get(CHANGES, params={"wait": 1})
    assert response.json()["items"] == []


# --- what a waiting request costs ----------------------------------------------------------------


@pytest.mark.requirement("FR-218")
def test_one_statement_polls_for_all_and_none_without_a_waiting_request(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = record_statements(monkeypatch)
    since = token(live)
    with ExitStack() as stack:
        connections = [stack.enter_context(live.connect()) for _ in range(20)]
        for connection in connections:
            connection.sendall(feed(since, 2))
        for connection in connections:
            assert read_response(connection).json()["items"] == []
    # Each request reads one page, and all of them share the polls.
    assert 1 <= polls(statements) <= (2 + MARGIN) / POLL_INTERVAL
    time.sleep(2 * POLL_INTERVAL)
    statements.clear()
    time.sleep(5 * POLL_INTERVAL)
    assert statements == []


@pytest.mark.requirement("FR-216")
def test_one_change_is_read_for_a_few_requests_at_a_time(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = most = 0
    read = ChangeRepository.list_changes

    async def counted(*arguments: Any) -> FeedPage:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await read(*arguments)

    since = token(live)
    with ExitStack() as stack:
        connections = [stack.enter_context(live.connect()) for _ in range(20)]
        for connection in connections:
            connection.sendall(feed(since))
        time.sleep(SETTLED)
        monkeypatch.setattr(ChangeRepository, "list_changes", counted)
        create(live)
        for connection in connections:
            assert read_response(connection).json()["items"]
    assert most == MAX_READS


@pytest.mark.requirement("FR-216")
@pytest.mark.parametrize("how", ["close", "reset", "half-close", "garbage"])
def test_closed_connection_ends_the_wait(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    since = token(live)
    statements = record_statements(monkeypatch)
    with live.connect() as connection:
        waiting(connection, feed(since))
        eventually(lambda: polls(statements), MARGIN)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half-close":
            connection.shutdown(socket.SHUT_WR)
            assert read_response(connection).json()["next_since"] == since
        if how == "garbage":
            connection.sendall(b"?\r\n\r\n")
            assert read_response(connection).json()["next_since"] == since
    time.sleep(SETTLED + 2 * POLL_INTERVAL)
    statements.clear()
    time.sleep(3 * POLL_INTERVAL)
    assert polls(statements) == 0


@pytest.mark.requirement("FR-216")
def test_waiting_requests_count_neither_as_concurrent_nor_as_database_use(
    settings: Settings,
) -> None:
    limited = msgspec.structs.replace(settings, max_concurrent_requests=1, database_pool_size=1)
    with serve_in_thread(limited) as server, ExitStack() as stack:
        since = token(server)
        connections = [stack.enter_context(server.connect()) for _ in range(5)]
        for connection in connections:
            waiting(connection, feed(since))
        started = time.monotonic()
        for _ in range(5):
            assert server.call("GET", ALICE).status_code == 200
        assert time.monotonic() - started < MARGIN
        task = create(server)
        for connection in connections:
            page = checked(read_response(connection)).json()
            assert [item["id"] for item in page["items"]] == [task["id"]]


# --- outages and shutdown ------------------------------------------------------------------------


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    opened = Relay(database_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.requirement("FR-215")
@pytest.mark.parametrize("frozen", [False, True], ids=["closed", "frozen"])
async def test_wait_continues_after_an_outage_of_the_database(
    database_url: str, relay: Relay, other: LiveServer, *, frozen: bool
) -> None:
    reached = settings_for(url_via_port(relay.port, database_url), database_timeout=0.5)
    with serve_in_thread(reached) as server:
        since = await asyncio.to_thread(token, server)
        with server.connect() as short, server.connect() as long:
            await asyncio.to_thread(waiting, long, feed(since))
            await asyncio.to_thread(waiting, short, feed(since, 1))
            if frozen:
                relay.freeze()
            else:
                await relay.close()
            assert (await asyncio.to_thread(read_response, short)).json()["items"] == []
            new = await asyncio.to_thread(server.call, "GET", f"{CHANGES}?wait=30")
            assert_problem(new, 503, "database-unavailable")
            if frozen:
                relay.thaw()
            else:
                await relay.open()
            task = await asyncio.to_thread(create, other)
            page = (await asyncio.to_thread(read_response, long)).json()
            assert [item["id"] for item in page["items"]] == [task["id"]]


@pytest.mark.requirement("FR-217")
def test_shutdown_answers_waiting_requests_immediately(database_url: str) -> None:
    with serving(DATABASE_URL=database_url, LOG_FORMAT="json") as service:
        server = LiveServer(int(httpx.URL(service.url).port or 0))
        since = token(server)
        with server.connect() as first, server.connect() as pipelined, server.connect() as idle:
            idle.sendall(feed(since, 0))
            read_response(idle)
            waiting(pipelined, feed(since) * 2)
            waiting(first, feed(since))
            started = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            responses = [read_response(first), *read_responses(pipelined, "GET", "GET")]
            idle.sendall(feed(since))  # during the shutdown
            responses.append(read_response(idle))
            assert time.monotonic() - started < MARGIN
        assert service.process.wait(MARGIN) == 0
        lines = [json.loads(line) for line in service.out.splitlines()]
    for response in responses:
        assert checked(response).json() == {"items": [], "next_since": since, "has_more": False}
    closing = [response.headers.get("connection") for response in responses]
    assert closing == ["close", None, "close", "close"]
    durations = [line["duration_ms"] for line in lines if "changes" in str(line.get("route"))]
    assert max(durations) >= SETTLED * 1000
    assert not any(line["event"] == "request cancelled by shutdown" for line in lines)
