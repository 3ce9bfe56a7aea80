"""The HTTP protocol without a server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from uvicorn import Config

from app.http.cors import CORSPolicy
from app.http.middleware import HTTPMiddleware
from app.http.problems import ProblemError, RequestTimeout
from app.metrics import Metrics, PoolStats
from app.openapi.document import OPENAPI_PATH
from app.server.admission import MAX_UNSENT_BYTES, AdmissionControl
from app.server.parser import MAX_FRAMING_BYTES, MAX_HEADER_BYTES, MAX_TOTAL_FRAMING_BYTES
from app.server.protocol import (
    MAX_PIPELINED_REQUESTS,
    STATE_TIMEOUTS,
    ConnectionState,
    HTTPProtocol,
)
from app.server.transport import CoalescingTransport
from app.settings import Settings

pytestmark = pytest.mark.requirement("FR-027")

UNFINISHED_HEADERS = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: "
UNFINISHED_BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


OPENED: list[HTTPProtocol] = []


class Pipe(asyncio.Transport):
    """A transport that records what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False
        self.reading = True
        self.aborted = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed


async def never_respond(_: Any, __: Any, ___: Any) -> None:
    await asyncio.Event().wait()


async def read_body(_: Any, receive: Any, send: Any) -> None:
    """Read the body, then respond with 204 or with the status of the problem."""
    status = 204
    try:
        while (await receive())["more_body"]:
            pass
    except ProblemError as problem:
        status = problem.status
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def respond(_: Any, __: Any, send: Any) -> None:
    """Respond immediately with 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connect(app: Any = never_respond, metrics: Metrics | None = None) -> tuple[HTTPProtocol, Pipe]:
    """Connect a new protocol to a new pipe."""
    middleware: Any = HTTPMiddleware(app, [], CORSPolicy(()), metrics)
    config = Config(middleware, log_config=None, http=cast("Any", HTTPProtocol), lifespan="off")
    config.load()
    protocol, pipe = HTTPProtocol(config, AdmissionControl(16, CORSPolicy(())), {}), Pipe()
    protocol.connection_made(pipe)
    OPENED.append(protocol)
    return protocol, pipe


@pytest.fixture(autouse=True)
async def cancel_tasks() -> AsyncIterator[None]:
    """Cancel the requests that a test leaves in progress."""
    yield
    while OPENED:
        tasks = list(OPENED.pop().server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_pending() -> None:
    """Run the pending callbacks of the event loop."""
    for _ in range(9):
        await asyncio.sleep(0)


async def problem(pipe: Pipe) -> dict[str, Any]:
    """Return the problem of the response, and check that the connection closes."""
    await run_pending()
    assert pipe.closed
    body: dict[str, Any] = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    return body


async def test_header_may_fill_the_limit() -> None:
    protocol, pipe = connect()
    protocol.data_received(UNFINISHED_HEADERS)
    for _ in range(4):
        protocol.data_received(b"a" * (MAX_HEADER_BYTES // 4))
    assert not pipe.closed


async def test_header_above_the_limit_is_rejected_before_it_ends() -> None:
    protocol, pipe = connect()
    protocol.data_received(UNFINISHED_HEADERS)
    for _ in range(4):
        protocol.data_received(b"a" * (MAX_HEADER_BYTES // 4))
    protocol.data_received(b"a")
    assert (await problem(pipe))["status"] == 431


async def test_headers_in_one_segment_are_counted() -> None:
    protocol, pipe = connect(respond)
    protocol.data_received(UNFINISHED_HEADERS + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n")
    assert (await problem(pipe))["status"] == 431


async def test_header_limit_applies_per_request() -> None:
    protocol, pipe = connect(respond)
    for _ in range(2):
        protocol.data_received(UNFINISHED_HEADERS)
        protocol.data_received(b"a" * (MAX_HEADER_BYTES - 1000))
        protocol.data_received(b"\r\n\r\n")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not pipe.closed
    assert pipe.written.count(b" 204 ") == 2


@pytest.mark.parametrize(
    ("size", "problem_type"), [(0, "malformed-request"), (1, "header-fields-too-large")]
)
async def test_malformed_headers_differ_from_too_large_headers(
    size: int, problem_type: str
) -> None:
    protocol, pipe = connect()
    counted = len("/livez") + len("Hosta: \r\n") + len("X: \r\n")
    field = b"a" * (MAX_HEADER_BYTES - counted + size)
    protocol.data_received(UNFINISHED_HEADERS + field + b"\r\nY: \r\n: nonsense\r\n\r\n")
    assert (await problem(pipe))["type"] == f"/problems/{problem_type}"


async def test_idle_connection_closes_with_the_client() -> None:
    protocol, pipe = connect()
    assert protocol.eof_received() is False
    assert pipe.written == b""


async def test_connection_after_a_response_closes_with_the_client() -> None:
    protocol, _ = connect(respond)
    protocol.data_received(LIVEZ)
    await asyncio.sleep(0)
    assert protocol.eof_received() is False


async def test_request_in_progress_at_eof_is_the_last() -> None:
    protocol, pipe = connect()
    protocol.data_received(LIVEZ)
    assert protocol.eof_received() is True
    assert protocol.queue[-1].keep_alive is False
    assert not pipe.closed


async def test_truncated_body_is_rejected() -> None:
    protocol, pipe = connect(read_body)
    protocol.data_received(UNFINISHED_BODY)
    assert protocol.eof_received() is True
    await run_pending()
    assert (statuses(pipe), pipe.closed) == ([400], True)


async def test_truncated_headers_are_rejected() -> None:
    protocol, pipe = connect()
    protocol.data_received(UNFINISHED_HEADERS)
    assert protocol.eof_received() is True
    assert (await problem(pipe))["type"] == "/problems/malformed-request"


async def test_repeated_host_is_rejected() -> None:
    protocol, pipe = connect(respond)
    protocol.data_received(b"OPTIONS /livez HTTP/1.1\r\nHost: a\r\nX: b\r\nhost: a\r\n\r\n")
    assert (await problem(pipe))["type"] == "/problems/malformed-request"


async def test_single_host_among_other_headers_is_accepted() -> None:
    protocol, pipe = connect()
    protocol.data_received(b"GET /livez HTTP/1.1\r\nX: a\r\nHost: a\r\nX: a\r\n\r\n")
    assert not pipe.closed


async def test_protocol_error_has_headers_and_a_log_line() -> None:
    protocol, pipe = connect()
    with capture_logs() as lines:
        protocol.data_received(b"nonsense\r\n\r\n")
        reported = await problem(pipe)
    header_block, _, body = pipe.written.partition(b"\r\n\r\n")
    instance = reported["instance"]
    assert UUID(instance).version == 7
    assert header_block.decode().split("\r\n") == [
        "HTTP/1.1 400 Bad Request",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        f"x-request-id: {instance}",
        "x-content-type-options: nosniff",
        "cache-control: private, no-cache",
        "connection: close",
    ]
    assert lines == [
        {
            "event": "request",
            "log_level": "info",
            "method": None,
            "route": None,
            "status": 400,
            "duration_ms": lines[0]["duration_ms"],
            "request_id": instance,
            "trace_id": None,
        }
    ]


# --- shutdown ------------------------------------------------------------------------------------


@pytest.mark.requirement("NFR-015")
async def test_kept_connection_may_send_one_more_request_during_shutdown() -> None:
    protocol, pipe = connect(respond)
    protocol.shutdown()
    assert not pipe.closed
    protocol.data_received(LIVEZ)
    await asyncio.gather(*protocol.server_state.tasks)
    assert b"connection: close\r\n" in pipe.written
    assert pipe.closed


@pytest.mark.requirement("NFR-015")
@pytest.mark.parametrize(("sent", "closed"), [(b"", True), (UNFINISHED_HEADERS, False)])
async def test_idle_connection_closes_after_the_drain_timeout(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    monkeypatch.setattr("app.server.protocol.DRAIN_TIMEOUT", 0)
    protocol, pipe = connect()
    protocol.data_received(sent)
    protocol.shutdown()
    await asyncio.sleep(0.01)
    assert pipe.closed is closed


@pytest.mark.requirement("NFR-015")
async def test_drain_timeout_is_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, _ = connect()
    later: list[float] = []
    monkeypatch.setattr(protocol, "loop", SimpleNamespace(call_later=lambda s, _: later.append(s)))
    protocol.shutdown()
    assert later == [1.0]


@pytest.mark.requirement("NFR-015")
async def test_connection_with_a_request_in_progress_is_not_kept() -> None:
    protocol, pipe = connect()
    protocol.data_received(LIVEZ)
    protocol.shutdown()
    assert not pipe.closed
    assert not protocol.queue[-1].keep_alive


# --- timeouts ------------------------------------------------------------------------------------

SLOW_CLIENTS = pytest.mark.requirement("FR-048")
HEADERS_ONLY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
INPUTS = {
    ConnectionState.NEW: b"",
    ConnectionState.READING_HEADERS: UNFINISHED_HEADERS,
    ConnectionState.READING_BODY: UNFINISHED_BODY,
    ConnectionState.DRAINING_BODY: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
    ConnectionState.KEEP_ALIVE: LIVEZ,
}
STATUSES = {
    ConnectionState.READING_HEADERS: [408],
    ConnectionState.READING_BODY: [408],
    ConnectionState.DRAINING_BODY: [204],
    ConnectionState.WRITING: [204],
    ConnectionState.KEEP_ALIVE: [204],
}


def statuses(pipe: Pipe) -> list[int]:
    return [int(each[:3]) for each in pipe.written.split(b"HTTP/1.1 ")[1:]]


HEADERS = "seconds to receive the request line and headers"
CONTRACT_ROWS = {
    ConnectionState.NEW: HEADERS,
    ConnectionState.READING_HEADERS: HEADERS,
    ConnectionState.READING_BODY: "seconds to receive a body",
    ConnectionState.DRAINING_BODY: "seconds to receive a body",
    ConnectionState.WRITING: "seconds for a client to read a response",
    ConnectionState.KEEP_ALIVE: "seconds between two requests on a connection",
}


def documented(row: str) -> float:
    """Return a limit from the contract's table."""
    match = re.search(rf"\| {row} \| (\d+) \|", OPENAPI_PATH.read_text("utf-8"))
    assert match, row
    return float(match[1])


async def connect_in(state: ConnectionState) -> tuple[HTTPProtocol, Pipe]:
    """Return a connection in this state."""
    protocol, pipe = connect(read_body if state is ConnectionState.READING_BODY else respond)
    protocol.data_received(INPUTS.get(state, LIVEZ))
    await run_pending()
    pipe.unsent = int(state is ConnectionState.WRITING)
    return protocol, pipe


async def assert_ends_after(protocol: HTTPProtocol, pipe: Pipe, seconds: float) -> None:
    """Check that the connection ends after these seconds, and not before."""
    for now in (100.0, 100.0 + seconds - 0.1):
        protocol.check_timeout(now)
        await run_pending()
        assert (pipe.closed, pipe.aborted) == (False, False)
    protocol.check_timeout(100.0 + seconds)
    await run_pending()
    assert pipe.closed or pipe.aborted


@SLOW_CLIENTS
@pytest.mark.parametrize("state", ConnectionState)
async def test_each_state_times_out_as_documented(state: ConnectionState) -> None:
    protocol, pipe = await connect_in(state)
    assert Settings().keep_alive_timeout == documented(CONTRACT_ROWS[ConnectionState.KEEP_ALIVE])
    protocol.config.timeout_keep_alive = Settings().keep_alive_timeout
    await assert_ends_after(protocol, pipe, documented(CONTRACT_ROWS[state]))
    assert statuses(pipe) == STATUSES.get(state, [])


@SLOW_CLIENTS
@pytest.mark.parametrize("state", ConnectionState)
async def test_each_state_has_its_own_timeout(
    state: ConnectionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, pipe = await connect_in(state)
    for each in STATE_TIMEOUTS:
        monkeypatch.setitem(STATE_TIMEOUTS, each, float(each.value))
    protocol.config.timeout_keep_alive = ConnectionState.KEEP_ALIVE.value
    await assert_ends_after(protocol, pipe, state.value)


@SLOW_CLIENTS
async def test_timeout_starts_when_a_state_is_first_observed() -> None:
    protocol, pipe = connect(respond)
    protocol.check_timeout(0.0)
    protocol.data_received(LIVEZ)
    await asyncio.sleep(0)
    protocol.check_timeout(1000.0)
    protocol.data_received(LIVEZ)
    await asyncio.sleep(0)
    protocol.check_timeout(2000.0)
    assert not pipe.closed


@SLOW_CLIENTS
async def test_request_after_a_response_has_its_own_timeout() -> None:
    protocol, pipe = connect(respond)
    for now in (0.0, 1000.0):
        protocol.data_received(LIVEZ + UNFINISHED_HEADERS)
        await asyncio.sleep(0)
        protocol.check_timeout(now)
        protocol.data_received(b"a\r\n\r\n")
        await asyncio.sleep(0)
    assert not pipe.closed


@SLOW_CLIENTS
@pytest.mark.parametrize(
    "sent", [LIVEZ, LIVEZ + UNFINISHED_HEADERS, LIVEZ + UNFINISHED_BODY], ids=len
)
async def test_no_timeout_while_the_service_is_working(sent: bytes) -> None:
    protocol, pipe = connect()
    protocol.data_received(sent)
    for now in (0.0, 1000.0, 2000.0):
        protocol.check_timeout(now)
    assert not pipe.closed


@SLOW_CLIENTS
@pytest.mark.parametrize("closes", [False, True])
async def test_client_that_reads_nothing_is_disconnected(closes: bool) -> None:  # noqa: FBT001
    protocol, pipe = connect(respond)
    protocol.data_received(LIVEZ)
    await asyncio.sleep(0)
    pipe.unsent, pipe.closed = 1, closes
    aborted: list[bool] = []
    for now in (
        0.0,
        STATE_TIMEOUTS[ConnectionState.WRITING] - 0.1,
        STATE_TIMEOUTS[ConnectionState.WRITING],
    ):
        protocol.check_timeout(now)
        aborted.append(pipe.aborted)
    assert aborted == [False, False, True]


@SLOW_CLIENTS
async def test_pipelined_requests_are_limited() -> None:
    protocol, pipe = connect()
    protocol.data_received(LIVEZ)
    for number in range(MAX_PIPELINED_REQUESTS):
        protocol.data_received(LIVEZ)
        assert len(protocol.queue) == number + 2
    protocol.data_received(LIVEZ)
    assert protocol.reading_stopped
    assert len(protocol.queue) == MAX_PIPELINED_REQUESTS + 1
    assert not pipe.reading


@SLOW_CLIENTS
async def test_input_after_the_pipelining_limit_is_ignored() -> None:
    protocol, pipe = connect()
    protocol.data_received(LIVEZ * (MAX_PIPELINED_REQUESTS + 1))
    for sent in (LIVEZ, b"nonsense\r\n\r\n"):
        protocol.data_received(sent)
    assert len(protocol.server_state.tasks) == 1
    assert len(protocol.queue) == MAX_PIPELINED_REQUESTS
    assert pipe.written == b""


@SLOW_CLIENTS
async def test_closing_connection_has_no_timeout() -> None:
    protocol, pipe = connect()
    protocol.data_received(b"nonsense\r\n\r\n")
    await run_pending()
    for now in (0.0, 1000.0):
        protocol.check_timeout(now)
    assert statuses(pipe) == [400]


# --- slow readers --------------------------------------------------------------------------------


API = LIVEZ.replace(b"/livez", b"/api")


def in_progress(protocol: HTTPProtocol) -> int:
    """Return how many requests count against the limit."""
    return len(protocol.server_state.in_progress)


@SLOW_CLIENTS
async def test_slow_reader_is_not_read_from() -> None:
    protocol, pipe = connect()
    protocol.data_received(API)
    seen: list[tuple[bool, int]] = []
    for step in (protocol.pause_writing, protocol.resume_writing):
        step()
        seen.append((pipe.reading, in_progress(protocol)))
    assert seen == [(False, 0), (True, 1)]


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize("target", [b"/livez", b"/readyz"])
async def test_health_check_is_not_counted(target: bytes) -> None:
    protocol, _ = connect()
    protocol.data_received(LIVEZ.replace(b"/livez", target))
    counted = [in_progress(protocol)]
    for step in (protocol.pause_writing, protocol.resume_writing):
        step()
        counted.append(in_progress(protocol))
    protocol.connection_lost(None)
    assert [*counted, in_progress(protocol)] == [0, 0, 0, 0]


# --- requests that wait for an event -------------------------------------------------------------


def connect_waiting(events: list[asyncio.Future[bool]]) -> tuple[HTTPProtocol, Pipe]:
    """Connect a client whose requests wait for these events, one after the other."""

    async def wait_for_all(scope: Any, receive: Any, send: Any) -> None:
        connection: HTTPProtocol = scope["state"]["connection"]
        for event in events:
            with connection.waiting(event):
                await event
        await respond(scope, receive, send)

    return connect(wait_for_all)


def new_event() -> asyncio.Future[bool]:
    return asyncio.get_running_loop().create_future()


@pytest.mark.requirement("FR-216")
async def test_waiting_request_is_not_counted() -> None:
    first, second = new_event(), new_event()
    protocol, pipe = connect_waiting([first, second])
    protocol.data_received(API)
    counted = [in_progress(protocol)]
    await run_pending()
    counted.append(in_progress(protocol))
    protocol.data_received(b"GET")  # of the next request
    counted.append(in_progress(protocol))
    first.set_result(True)
    await run_pending()
    counted.append(in_progress(protocol))
    assert counted == [1, 0, 0, 0]
    second.set_result(True)
    await run_pending()
    assert (in_progress(protocol), pipe.written.count(b" 204 ")) == (0, 1)


@pytest.mark.requirement("FR-215")
async def test_waiting_request_has_no_timeout() -> None:
    event = new_event()
    protocol, pipe = connect_waiting([event])
    protocol.data_received(API)
    await run_pending()
    for now in (0.0, 1e6, 2e6):
        protocol.check_timeout(now)
    event.set_result(False)
    await run_pending()
    assert (pipe.written.count(b" 204 "), pipe.aborted) == (1, False)


@pytest.mark.requirement("FR-216")
async def test_request_counts_again_after_its_wait() -> None:
    counted: list[int] = []

    async def wait_and_count(scope: Any, receive: Any, send: Any) -> None:
        with scope["state"]["connection"].waiting(event):
            counted.append(in_progress(protocol))
            await event
        counted.append(in_progress(protocol))
        await respond(scope, receive, send)

    event = new_event()
    protocol, _ = connect(wait_and_count)
    protocol.server_state.max_concurrent_requests = 1
    protocol.data_received(API)
    await run_pending()
    protocol.server_state.in_progress.add("another request")
    event.set_result(True)
    await run_pending()
    # It was admitted before, so it is not rejected.
    assert counted == [0, 2]
    assert protocol.server_state.in_progress == {"another request"}


@pytest.mark.requirement("FR-216", "FR-217")
@pytest.mark.parametrize("how", ["shutdown", "eof_received", "lost", "stop_reading"])
@pytest.mark.parametrize("first", [True, False], ids=["before the wait", "during the wait"])
async def test_end_of_the_connection_ends_the_wait(how: str, *, first: bool) -> None:
    event = new_event()
    protocol, pipe = connect_waiting([event])
    protocol.data_received(API)
    if not first:
        await run_pending()
        assert not event.done()
    if how == "lost":
        pipe.close()
        protocol.connection_lost(None)
    else:
        getattr(protocol, how)()
    await run_pending()
    assert event.result() is False
    assert in_progress(protocol) == 0
    assert pipe.closed


@pytest.mark.requirement("FR-047")
async def test_request_of_a_lost_client_counts_until_its_handler_ends() -> None:
    proceed = asyncio.Event()

    async def wait_and_fail(_: Any, __: Any, ___: Any) -> None:
        await proceed.wait()
        raise ConnectionError

    protocol, _ = connect(wait_and_fail)
    protocol.data_received(API)
    protocol.connection_lost(None)
    counted = [in_progress(protocol)]
    proceed.set()
    await asyncio.gather(*protocol.server_state.tasks)
    await asyncio.sleep(0)
    counted.append(in_progress(protocol))
    assert counted == [1, 0]


@pytest.mark.requirement("FR-047")
async def test_request_without_a_response_is_counted_once() -> None:
    async def start_response(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    protocol, pipe = connect(start_response)
    protocol.data_received(API)
    protocol.pause_writing()
    protocol.resume_writing()
    counted = [in_progress(protocol)]
    await asyncio.gather(*protocol.server_state.tasks)
    await asyncio.sleep(0)
    protocol.pause_writing()
    protocol.resume_writing()
    counted.append(in_progress(protocol))
    assert (counted, pipe.closed) == ([1, 0], True)


@pytest.mark.requirement("FR-047")
async def test_request_is_not_counted_after_its_response() -> None:
    counted: list[int] = []
    proceed = asyncio.Event()

    async def respond_and_continue(scope: Any, receive: Any, send: Any) -> None:
        counted.append(in_progress(protocol))
        await respond(scope, receive, send)
        counted.append(in_progress(protocol))
        await proceed.wait()

    protocol, _ = connect(respond_and_continue)
    protocol.data_received(API)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(protocol.server_state.tasks) == 1
    proceed.set()
    await asyncio.gather(*protocol.server_state.tasks)
    assert counted == [1, 0]


@pytest.mark.requirement("FR-047")
async def test_request_after_a_health_check_is_checked() -> None:
    protocol, pipe = connect(respond)
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(LIVEZ + API + LIVEZ + API)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204, 503, 204, 503]


@pytest.mark.requirement("FR-031", "FR-047")
async def test_preflight_is_never_rejected() -> None:
    protocol, pipe = connect(respond)
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(API.replace(b"GET", b"OPTIONS", 1) + API)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [404, 503]  # the application has no paths


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize(("others", "status"), [(0, 204), (1, 503)])
async def test_request_is_checked_again_when_its_body_is_complete(others: int, status: int) -> None:
    async def read_body(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except ProblemError as problem:
            start = {"type": "http.response.start", "status": problem.status, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b""})
        else:
            await respond(scope, receive, send)

    protocol, pipe = connect(read_body)
    protocol.server_state.max_concurrent_requests = 1
    protocol.data_received(HEADERS_ONLY)
    for _ in range(others):  # takes the only slot while the first request waits for its client
        other, _ = connect(never_respond)
        other.server_state = protocol.server_state
        other.data_received(API)
    await asyncio.sleep(0)
    protocol.data_received(b"x" * 10)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [status]


@pytest.mark.parametrize(
    "target", [b"http://a:65536/", b"http://a:/", b"http://[::1/", b"http:///"]
)
async def test_unparsable_target_gets_a_response(target: bytes) -> None:
    protocol, pipe = connect(respond)
    protocol.data_received(LIVEZ + LIVEZ.replace(b"/livez", target))
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204, 400]


@pytest.mark.requirement("NFR-017")
async def test_incomplete_bodies_are_limited_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.admission.MAX_INCOMPLETE_BYTES", 20)
    protocols = [connect()[0] for _ in range(5)]
    gone, first, complete, second, last = protocols
    for protocol in protocols:
        protocol.server_state = gone.server_state
    gone.data_received(HEADERS_ONLY + b"x" * 9)
    gone.connection_lost(None)  # its bytes are no longer counted
    first.data_received(HEADERS_ONLY + b"x" * 9)
    complete.data_received(HEADERS_ONLY + b"x" * 10)  # nor are the bytes of a complete body
    second.data_received(HEADERS_ONLY + b"x" * 6)
    last.data_received(HEADERS_ONLY + b"x" * 5)
    assert [cycle.problem for cycle in first.queue] == [None]
    last.data_received(b"x")
    assert [type(cycle.problem) for cycle in first.queue] == [RequestTimeout]
    assert [cycle.problem for cycle in (*complete.queue, *second.queue, *last.queue)] == [None] * 3


async def test_whitespace_after_a_header_value_is_ignored() -> None:
    protocol, pipe = connect(respond)
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked \t\r\n\r\n0\r\n\r\n"
    protocol.data_received(chunked)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204]


@SLOW_CLIENTS
async def test_lost_client_is_not_counted() -> None:
    protocol, _ = connect()
    protocol.data_received(HEADERS_ONLY)
    counted = [in_progress(protocol)]
    protocol.connection_lost(None)
    counted.append(in_progress(protocol))
    assert counted == [0, 0]


@SLOW_CLIENTS
async def test_request_with_a_complete_body_is_counted() -> None:
    protocol, _ = connect()
    counted: list[int] = []
    for sent in (HEADERS_ONLY, b"a" * 9, b"a"):
        protocol.data_received(sent)
        counted.append(in_progress(protocol))
    assert counted == [0, 0, 1]


@pytest.mark.requirement("NFR-017")
@pytest.mark.parametrize("end", ["read", "lost"])
async def test_unsent_bytes_count_until_read_or_lost(end: str) -> None:
    first, pipe = connect(respond)
    admission = first.server_state
    pipe.unsent = MAX_UNSENT_BYTES
    first.pause_writing()
    if end == "read":
        first.resume_writing()
    else:
        first.connection_lost(None)
    other_pipe = Pipe()
    other_pipe.unsent = 1
    admission.write_blocked(CoalescingTransport(other_pipe, asyncio.get_running_loop()))
    assert not pipe.aborted


@pytest.mark.requirement("FR-047")
async def test_slow_reader_of_a_rejection_is_not_counted() -> None:
    protocol, pipe = connect()
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(LIVEZ.replace(b"/livez", b"/api"))
    assert statuses(pipe) == [503]
    protocol.pause_writing()
    reading = [pipe.reading]
    protocol.resume_writing()
    reading.append(pipe.reading)
    assert reading == [False, True]


@pytest.mark.requirement("FR-047")
async def test_rejection_contains_request_id_and_trace_id() -> None:
    protocol, pipe = connect()
    protocol.server_state.max_concurrent_requests = 0
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = f"X-Request-ID: mine\r\ntraceparent: 00-{trace}-{'1' * 16}-01\r\n".encode()
    protocol.data_received(LIVEZ.replace(b"/livez", b"/api")[:-2] + headers + b"\r\n")
    problem = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    assert (problem["instance"], problem["trace_id"]) == ("mine", trace)


async def test_response_without_a_body_is_sent() -> None:
    protocol, pipe = connect(respond)
    protocol.data_received(LIVEZ.replace(b"GET", b"HEAD"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204]


@SLOW_CLIENTS
async def test_large_unread_body_closes_the_connection() -> None:
    protocol, pipe = connect(respond)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not pipe.closed
    protocol.data_received(b"a" * 1_500_000)
    assert (pipe.reading, pipe.closed) == (False, True)


@SLOW_CLIENTS
async def test_client_that_reads_again_is_counted_again() -> None:
    proceed = asyncio.Event()

    async def respond_in_two_parts(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await proceed.wait()
        await send({"type": "http.response.body", "body": b"b"})

    protocol, _ = connect(respond_in_two_parts)
    protocol.data_received(API)
    await asyncio.sleep(0)
    counted: list[int] = []
    for step in (protocol.pause_writing, protocol.resume_writing, proceed.set):
        step()
        for _ in range(3):
            await asyncio.sleep(0)
        counted.append(in_progress(protocol))
    assert counted == [0, 1, 0]


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_rejection_has_a_body_except_for_head(method: str, *, has_body: bool) -> None:
    protocol, pipe = connect()
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(f"{method} /api HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    header_block, _, body = pipe.written.partition(b"\r\n\r\n")
    assert header_block.startswith(b"HTTP/1.1 503 ")
    assert bool(body) is has_body
    assert len(header_block.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]) == len(
        str(UUID(int=0))
    )


@SLOW_CLIENTS
@pytest.mark.parametrize(("size", "reading_stopped"), [(1_048_576, False), (1_048_577, True)])
async def test_drained_body_is_limited_to_one_mebibyte(size: int, *, reading_stopped: bool) -> None:
    protocol, _ = connect(respond)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    protocol.data_received(b"a" * size)
    assert protocol.reading_stopped is reading_stopped


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize(
    ("app", "expect", "prefixes"),
    [
        (respond, b"", [b"HTTP/1.1 204 "]),
        (respond, b"Expect: 100-continue\r\n", [b"HTTP/1.1 204 "]),
        (read_body, b"Expect: 100-continue\r\n", [b"HTTP/1.1 100 ", b"HTTP/1.1 204 "]),
    ],
    ids=["plain", "rejected early", "continued"],
)
async def test_response_is_one_write_and_interim_responses_are_immediate(
    app: Any, expect: bytes, prefixes: list[bytes]
) -> None:
    protocol, pipe = connect(app)
    written: list[bytes] = []
    pipe.write = written.append  # type: ignore[method-assign, assignment]
    protocol.data_received(HEADERS_ONLY[:-2] + expect + b"\r\n")
    await run_pending()
    protocol.data_received(b"a" * 10)
    await run_pending()
    assert [data[:13] for data in written] == prefixes


@SLOW_CLIENTS
async def test_pipelined_request_waits_until_the_response_is_read() -> None:
    started: list[int] = []

    async def count_and_respond(scope: Any, receive: Any, send: Any) -> None:
        started.append(len(started))
        await respond(scope, receive, send)

    protocol, pipe = connect(count_and_respond)

    def write_and_wait(data: bytes) -> None:
        pipe.written += data
        protocol.pause_writing()

    pipe.write = write_and_wait  # type: ignore[method-assign]
    protocol.data_received(LIVEZ * 3)
    for number in (1, 2, 3):
        for _ in range(9):
            await asyncio.sleep(0)
        assert statuses(pipe) == [204] * number
        assert len(started) == number
        protocol.resume_writing()
    assert not protocol.write_blocked


# --- endless chunked framing ---------------------------------------------------------------------

FRAMING = pytest.mark.requirement("FR-025")
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@FRAMING
@pytest.mark.parametrize(
    "beginning", [b"1;a=", b"0\r\nX: ", b"0\r\nX"], ids=["extension", "trailer", "name"]
)
async def test_each_part_of_chunked_framing_is_limited(beginning: bytes) -> None:
    protocol, pipe = connect(read_body)
    protocol.data_received(CHUNKED + beginning)
    await run_pending()
    protocol.data_received(b"a" * MAX_FRAMING_BYTES)
    assert not protocol.reading_stopped
    protocol.data_received(b"a")
    await run_pending()
    assert (statuses(pipe), pipe.closed) == ([413], True)


@FRAMING
async def test_total_chunked_framing_is_limited_without_its_content() -> None:
    protocol, pipe = connect(read_body)
    protocol.data_received(CHUNKED)
    piece = b"1;%b\r\na\r\n" % (b"x" * 1000)
    framing = len(piece) - 1
    for _ in range(MAX_TOTAL_FRAMING_BYTES // framing):
        protocol.data_received(piece)
    await run_pending()
    assert (protocol.reading_stopped, statuses(pipe)) == (False, [])
    protocol.data_received(piece)
    await run_pending()
    assert (statuses(pipe), pipe.closed) == ([413], True)


@FRAMING
async def test_trailer_fields_are_limited_in_total() -> None:
    protocol, pipe = connect(read_body)
    protocol.data_received(CHUNKED + b"0\r\n")
    for _ in range(MAX_FRAMING_BYTES // 6 + 1):
        protocol.data_received(b"a: b\r\n")
    await run_pending()
    assert statuses(pipe) == [413]


# --- logs and metrics ----------------------------------------------------------------------------

REQUEST_ID = b"X-Request-ID: mine\r\n"
REJECTED = {
    "garbage": (b"Buy milk\r\n\r\n", None, 400),
    "no Host": (b"PUT /a HTTP/1.1\r\n" + REQUEST_ID + b"\r\n", "PUT", 400),
    "431": (
        b"GET /a HTTP/1.1\r\nHost: a\r\n" + REQUEST_ID + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
        "GET",
        431,
    ),
    "501": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n" + REQUEST_ID + b"\r\n", "CONNECT", 501),
}


@pytest.mark.requirement("FR-041", "FR-049")
@pytest.mark.parametrize(("sent", "method", "status"), REJECTED.values(), ids=REJECTED)
async def test_rejected_request_is_logged_and_measured_once(
    sent: bytes, method: str | None, status: int
) -> None:
    metrics = Metrics(PoolStats(lambda: 0, lambda: 0, lambda: 0))
    protocol, pipe = connect(respond, metrics)
    with capture_logs() as lines:
        protocol.data_received(LIVEZ + sent)
        await run_pending()
    assert statuses(pipe) == [204, status]
    logged = [(line["method"], line["status"], line["request_id"] == "mine") for line in lines]
    assert logged == [("GET", 204, False), (method, status, method is not None)]
    labels = {
        "http_request_method": method or "_OTHER",
        "http_route": "",
        "http_response_status_code": str(status),
    }
    value = metrics.registry.get_sample_value
    assert value("http_server_request_duration_seconds_count", labels) == 1
    assert value("http_server_active_requests") == 0


@pytest.mark.requirement("FR-041")
async def test_rejected_head_request_has_no_body() -> None:
    protocol, pipe = connect()
    protocol.data_received(b"HEAD / HTTP/1.1\r\n\r\n")
    await run_pending()
    assert statuses(pipe) == [400]
    assert pipe.written.endswith(b"\r\n\r\n")


# --- malformed bodies beside other requests ------------------------------------------------------


async def test_response_started_before_a_body_error_is_completed() -> None:
    """The streaming response is completed, and then the connection closes."""
    proceed = asyncio.Event()

    async def stream(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        event = asyncio.create_task(receive())
        await proceed.wait()
        await send({"type": "http.response.body", "body": b"whole"})
        events.append((await event)["type"])

    events: list[str] = []
    protocol, pipe = connect(stream)
    protocol.data_received(CHUNKED)
    await run_pending()
    protocol.data_received(b"zz\r\n")
    await run_pending()
    assert not pipe.closed
    proceed.set()
    await run_pending()
    assert (statuses(pipe), pipe.closed, events) == ([200], True, ["http.disconnect"])


async def test_requests_of_a_lost_connection_are_disconnected() -> None:
    events: list[str] = []

    async def listen(_: Any, receive: Any, __: Any) -> None:
        while (event := await receive())["type"] != "http.disconnect":
            pass
        events.append(event["type"])

    protocol, _ = connect(listen)
    protocol.data_received(LIVEZ + LIVEZ)
    await run_pending()
    protocol.connection_lost(None)
    await run_pending()
    assert events == ["http.disconnect"]


async def test_nothing_is_parsed_after_a_protocol_error() -> None:
    protocol, pipe = connect()
    protocol.data_received(LIVEZ + b"nonsense\r\n\r\n")
    assert not pipe.reading
    protocol.data_received(LIVEZ)
    assert protocol.eof_received() is True
    assert len(protocol.queue) == 2
