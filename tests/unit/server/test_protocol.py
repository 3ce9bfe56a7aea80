"""The protocol by itself, fed piece by piece."""

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

START = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: "
UNFINISHED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"
WHOLE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


OPENED: list[HTTPProtocol] = []


class Pipe(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False
        self.reading = True
        self.aborted = False
        self.unread = 0

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed


async def wait(_: Any, __: Any, ___: Any) -> None:
    """An application that never answers."""
    await asyncio.Event().wait()


async def read(_: Any, receive: Any, send: Any) -> None:
    """An application that reads the body before it answers; what it cannot read is its answer."""
    status = 204
    try:
        while (await receive())["more_body"]:
            pass
    except ProblemError as problem:
        status = problem.status
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def answer(_: Any, __: Any, send: Any) -> None:
    """An application that answers at once."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connected(app: Any = wait, metrics: Metrics | None = None) -> tuple[HTTPProtocol, Pipe]:
    """A protocol with its connection."""
    edge: Any = HTTPMiddleware(app, [], CORSPolicy(()), metrics)
    config = Config(edge, log_config=None, http=cast("Any", HTTPProtocol), lifespan="off")
    config.load()
    protocol, pipe = HTTPProtocol(config, AdmissionControl(16, CORSPolicy(())), {}), Pipe()
    protocol.connection_made(pipe)
    OPENED.append(protocol)
    return protocol, pipe


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """End what the applications of a test still do."""
    yield
    while OPENED:
        tasks = list(OPENED.pop().server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    """Let the event loop do what it has to do."""
    for _ in range(9):
        await asyncio.sleep(0)


async def problem(pipe: Pipe) -> dict[str, Any]:
    """The body of the answer, which ends the connection."""
    await settle()
    assert pipe.closed
    found: dict[str, Any] = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    return found


async def test_header_may_fill_the_limit() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    for _ in range(4):
        protocol.data_received(b"a" * (MAX_HEADER_BYTES // 4))
    assert not pipe.closed


async def test_header_above_the_limit_is_rejected_before_it_ends() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    for _ in range(4):
        protocol.data_received(b"a" * (MAX_HEADER_BYTES // 4))
    protocol.data_received(b"a")
    assert (await problem(pipe))["status"] == 431


async def test_headers_in_one_segment_are_counted() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(START + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n")
    assert (await problem(pipe))["status"] == 431


async def test_header_limit_applies_per_request() -> None:
    protocol, pipe = connected(answer)
    for _ in range(2):
        protocol.data_received(START)
        protocol.data_received(b"a" * (MAX_HEADER_BYTES - 1000))
        protocol.data_received(b"\r\n\r\n")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not pipe.closed
    assert pipe.written.count(b" 204 ") == 2


@pytest.mark.parametrize(
    ("size", "kind"), [(0, "malformed-request"), (1, "header-fields-too-large")]
)
async def test_malformed_headers_differ_from_too_large_headers(size: int, kind: str) -> None:
    protocol, pipe = connected()
    counted = len("/livez") + len("Hosta: \r\n") + len("X: \r\n")
    field = b"a" * (MAX_HEADER_BYTES - counted + size)
    protocol.data_received(START + field + b"\r\nY: \r\n: nonsense\r\n\r\n")
    assert (await problem(pipe))["type"] == f"/problems/{kind}"


async def test_idle_connection_closes_with_the_client() -> None:
    protocol, pipe = connected()
    assert protocol.eof_received() is False
    assert pipe.written == b""


async def test_connection_after_a_response_closes_with_the_client() -> None:
    protocol, _ = connected(answer)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    assert protocol.eof_received() is False


async def test_request_in_progress_at_eof_is_the_last() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    assert protocol.eof_received() is True
    assert protocol.queue[-1].keep_alive is False
    assert not pipe.closed


async def test_truncated_body_is_rejected() -> None:
    protocol, pipe = connected(read)
    protocol.data_received(UNFINISHED)
    assert protocol.eof_received() is True
    await settle()
    assert (statuses(pipe), pipe.closed) == ([400], True)


async def test_truncated_headers_are_rejected() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    assert protocol.eof_received() is True
    assert (await problem(pipe))["type"] == "/problems/malformed-request"


async def test_repeated_host_is_rejected() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(b"OPTIONS /livez HTTP/1.1\r\nHost: a\r\nX: b\r\nhost: a\r\n\r\n")
    assert (await problem(pipe))["type"] == "/problems/malformed-request"


async def test_single_host_among_other_headers_is_accepted() -> None:
    protocol, pipe = connected()
    protocol.data_received(b"GET /livez HTTP/1.1\r\nX: a\r\nHost: a\r\nX: a\r\n\r\n")
    assert not pipe.closed


async def test_protocol_error_has_headers_and_a_log_line() -> None:
    protocol, pipe = connected()
    with capture_logs() as lines:
        protocol.data_received(b"nonsense\r\n\r\n")
        told = await problem(pipe)
    head, _, body = pipe.written.partition(b"\r\n\r\n")
    instance = told["instance"]
    assert UUID(instance).version == 7
    assert head.decode().split("\r\n") == [
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


# --- the end of the service ----------------------------------------------------------------------


@pytest.mark.requirement("NFR-015")
async def test_kept_connection_may_send_one_more_request_during_shutdown() -> None:
    protocol, pipe = connected(answer)
    protocol.shutdown()
    assert not pipe.closed
    protocol.data_received(WHOLE)
    await asyncio.gather(*protocol.server_state.tasks)
    assert b"connection: close\r\n" in pipe.written
    assert pipe.closed


@pytest.mark.requirement("NFR-015")
@pytest.mark.parametrize(("sent", "closed"), [(b"", True), (START, False)])
async def test_idle_connection_closes_after_the_drain_timeout(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    monkeypatch.setattr("app.server.protocol.DRAIN_TIMEOUT", 0)
    protocol, pipe = connected()
    protocol.data_received(sent)
    protocol.shutdown()
    await asyncio.sleep(0.01)
    assert pipe.closed is closed


@pytest.mark.requirement("NFR-015")
async def test_drain_timeout_is_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, _ = connected()
    later: list[float] = []
    monkeypatch.setattr(protocol, "loop", SimpleNamespace(call_later=lambda s, _: later.append(s)))
    protocol.shutdown()
    assert later == [1.0]


@pytest.mark.requirement("NFR-015")
async def test_connection_with_a_request_in_progress_is_not_kept() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    protocol.shutdown()
    assert not pipe.closed
    assert not protocol.queue[-1].keep_alive


# --- time ----------------------------------------------------------------------------------------

SLOW = pytest.mark.requirement("FR-048")
BEGINNING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
BEGUN = {
    ConnectionState.NEW: b"",
    ConnectionState.READING_HEADERS: START,
    ConnectionState.READING_BODY: UNFINISHED,
    ConnectionState.DRAINING_BODY: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
    ConnectionState.KEEP_ALIVE: WHOLE,
}
STATUS = {
    ConnectionState.READING_HEADERS: [408],
    ConnectionState.READING_BODY: [408],
    ConnectionState.DRAINING_BODY: [204],
    ConnectionState.WRITING: [204],
    ConnectionState.KEEP_ALIVE: [204],
}


def statuses(pipe: Pipe) -> list[int]:
    return [int(each[:3]) for each in pipe.written.split(b"HTTP/1.1 ")[1:]]


HEADERS = "seconds for the request line and the header fields"
ROWS = {
    ConnectionState.NEW: HEADERS,
    ConnectionState.READING_HEADERS: HEADERS,
    ConnectionState.READING_BODY: "seconds for a body",
    ConnectionState.DRAINING_BODY: "seconds for a body",
    ConnectionState.WRITING: "seconds until a client has read what it was sent",
    ConnectionState.KEEP_ALIVE: "seconds between two requests on a connection",
}


def documented(row: str) -> float:
    """A limit in the contract's table."""
    found = re.search(rf"\| {row} \| (\d+) \|", OPENAPI_PATH.read_text("utf-8"))
    assert found, row
    return float(found[1])


async def waiting(kind: ConnectionState) -> tuple[HTTPProtocol, Pipe]:
    """A connection in this state."""
    protocol, pipe = connected(read if kind is ConnectionState.READING_BODY else answer)
    protocol.data_received(BEGUN.get(kind, WHOLE))
    await settle()
    pipe.unread = int(kind is ConnectionState.WRITING)
    return protocol, pipe


async def assert_ends_after(protocol: HTTPProtocol, pipe: Pipe, seconds: float) -> None:
    """It is ended after these seconds, and not before."""
    for now in (100.0, 100.0 + seconds - 0.1):
        protocol.check_timeout(now)
        await settle()
        assert (pipe.closed, pipe.aborted) == (False, False)
    protocol.check_timeout(100.0 + seconds)
    await settle()
    assert pipe.closed or pipe.aborted


@SLOW
@pytest.mark.parametrize("kind", ConnectionState)
async def test_each_state_times_out_as_documented(kind: ConnectionState) -> None:
    protocol, pipe = await waiting(kind)
    assert Settings().keep_alive_timeout == documented(ROWS[ConnectionState.KEEP_ALIVE])
    protocol.config.timeout_keep_alive = Settings().keep_alive_timeout
    await assert_ends_after(protocol, pipe, documented(ROWS[kind]))
    assert statuses(pipe) == STATUS.get(kind, [])


@SLOW
@pytest.mark.parametrize("kind", ConnectionState)
async def test_each_state_has_its_own_timeout(
    kind: ConnectionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, pipe = await waiting(kind)
    for each in STATE_TIMEOUTS:
        monkeypatch.setitem(STATE_TIMEOUTS, each, float(each.value))
    protocol.config.timeout_keep_alive = ConnectionState.KEEP_ALIVE.value
    await assert_ends_after(protocol, pipe, kind.value)


@SLOW
async def test_timeout_starts_when_a_state_is_first_observed() -> None:
    protocol, pipe = connected(answer)
    protocol.check_timeout(0.0)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    protocol.check_timeout(1000.0)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    protocol.check_timeout(2000.0)
    assert not pipe.closed


@SLOW
async def test_request_after_a_response_has_its_own_timeout() -> None:
    protocol, pipe = connected(answer)
    for now in (0.0, 1000.0):
        protocol.data_received(WHOLE + START)
        await asyncio.sleep(0)
        protocol.check_timeout(now)
        protocol.data_received(b"a\r\n\r\n")
        await asyncio.sleep(0)
    assert not pipe.closed


@SLOW
@pytest.mark.parametrize("sent", [WHOLE, WHOLE + START, WHOLE + UNFINISHED], ids=len)
async def test_no_timeout_while_the_service_is_working(sent: bytes) -> None:
    protocol, pipe = connected()
    protocol.data_received(sent)
    for now in (0.0, 1000.0, 2000.0):
        protocol.check_timeout(now)
    assert not pipe.closed


@SLOW
@pytest.mark.parametrize("closes", [False, True])
async def test_client_that_reads_nothing_is_disconnected(closes: bool) -> None:  # noqa: FBT001
    protocol, pipe = connected(answer)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    pipe.unread, pipe.closed = 1, closes
    cut: list[bool] = []
    for now in (
        0.0,
        STATE_TIMEOUTS[ConnectionState.WRITING] - 0.1,
        STATE_TIMEOUTS[ConnectionState.WRITING],
    ):
        protocol.check_timeout(now)
        cut.append(pipe.aborted)
    assert cut == [False, False, True]


@SLOW
async def test_pipelined_requests_are_limited() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    for number in range(MAX_PIPELINED_REQUESTS):
        protocol.data_received(WHOLE)
        assert len(protocol.queue) == number + 2
    protocol.data_received(WHOLE)
    assert protocol.reading_stopped
    assert len(protocol.queue) == MAX_PIPELINED_REQUESTS + 1
    assert not pipe.reading


@SLOW
async def test_input_after_the_pipelining_limit_is_ignored() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE * (MAX_PIPELINED_REQUESTS + 1))
    for sent in (WHOLE, b"nonsense\r\n\r\n"):
        protocol.data_received(sent)
    assert len(protocol.server_state.tasks) == 1
    assert len(protocol.queue) == MAX_PIPELINED_REQUESTS
    assert pipe.written == b""


@SLOW
async def test_closing_connection_has_no_timeout() -> None:
    protocol, pipe = connected()
    protocol.data_received(b"nonsense\r\n\r\n")
    await settle()
    for now in (0.0, 1000.0):
        protocol.check_timeout(now)
    assert statuses(pipe) == [400]


# --- clients that do not read --------------------------------------------------------------------


API = WHOLE.replace(b"/livez", b"/api")


def in_progress(protocol: HTTPProtocol) -> int:
    """How many requests count against the limit."""
    return len(protocol.server_state.in_progress)


@SLOW
async def test_slow_reader_is_not_read_from() -> None:
    protocol, pipe = connected()
    protocol.data_received(API)
    seen: list[tuple[bool, int]] = []
    for turn in (protocol.pause_writing, protocol.resume_writing):
        turn()
        seen.append((pipe.reading, in_progress(protocol)))
    assert seen == [(False, 0), (True, 1)]


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize("target", [b"/livez", b"/readyz"])
async def test_health_check_is_not_counted(target: bytes) -> None:
    protocol, _ = connected()
    protocol.data_received(WHOLE.replace(b"/livez", target))
    counted = [in_progress(protocol)]
    for turn in (protocol.pause_writing, protocol.resume_writing):
        turn()
        counted.append(in_progress(protocol))
    protocol.connection_lost(None)
    assert [*counted, in_progress(protocol)] == [0, 0, 0, 0]


@pytest.mark.requirement("FR-047")
async def test_request_of_a_lost_client_counts_until_its_handler_ends() -> None:
    go_on = asyncio.Event()

    async def wait_and_fail(_: Any, __: Any, ___: Any) -> None:
        await go_on.wait()
        raise ConnectionError

    protocol, _ = connected(wait_and_fail)
    protocol.data_received(API)
    protocol.connection_lost(None)
    counted = [in_progress(protocol)]
    go_on.set()
    await asyncio.gather(*protocol.server_state.tasks)
    await asyncio.sleep(0)
    counted.append(in_progress(protocol))
    assert counted == [1, 0]


@pytest.mark.requirement("FR-047")
async def test_request_without_a_response_is_counted_once() -> None:
    async def begin(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    protocol, pipe = connected(begin)
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
    go_on = asyncio.Event()

    async def answer_and_go_on(scope: Any, receive: Any, send: Any) -> None:
        counted.append(in_progress(protocol))
        await answer(scope, receive, send)
        counted.append(in_progress(protocol))
        await go_on.wait()

    protocol, _ = connected(answer_and_go_on)
    protocol.data_received(API)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(protocol.server_state.tasks) == 1
    go_on.set()
    await asyncio.gather(*protocol.server_state.tasks)
    assert counted == [1, 0]


@pytest.mark.requirement("FR-047")
async def test_request_after_a_health_check_is_checked() -> None:
    protocol, pipe = connected(answer)
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(WHOLE + API + WHOLE + API)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204, 503, 204, 503]


@pytest.mark.requirement("FR-031", "FR-047")
async def test_preflight_is_never_rejected() -> None:
    protocol, pipe = connected(answer)
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(API.replace(b"GET", b"OPTIONS", 1) + API)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [404, 503]  # this application has no path


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize(("others", "status"), [(0, 204), (1, 503)])
async def test_request_is_checked_again_when_its_body_is_complete(others: int, status: int) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except ProblemError as problem:
            start = {"type": "http.response.start", "status": problem.status, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer(scope, receive, send)

    protocol, pipe = connected(read)
    protocol.server_state.max_concurrent_requests = 1
    protocol.data_received(BEGINNING)
    for _ in range(others):  # takes the only place while the first one waits for its client
        other, _ = connected(wait)
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
    protocol, pipe = connected(answer)
    protocol.data_received(WHOLE + WHOLE.replace(b"/livez", target))
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204, 400]


@pytest.mark.requirement("NFR-017")
async def test_incomplete_bodies_are_limited_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.admission.MAX_INCOMPLETE_BYTES", 20)
    made = [connected()[0] for _ in range(5)]
    gone, first, complete, second, last = made
    for protocol in made:
        protocol.server_state = gone.server_state
    gone.data_received(BEGINNING + b"x" * 9)
    gone.connection_lost(None)  # its bytes count no longer
    first.data_received(BEGINNING + b"x" * 9)
    complete.data_received(BEGINNING + b"x" * 10)  # nor do these
    second.data_received(BEGINNING + b"x" * 6)
    last.data_received(BEGINNING + b"x" * 5)
    assert [cycle.problem for cycle in first.queue] == [None]
    last.data_received(b"x")
    assert [type(cycle.problem) for cycle in first.queue] == [RequestTimeout]
    assert [cycle.problem for cycle in (*complete.queue, *second.queue, *last.queue)] == [None] * 3


async def test_whitespace_after_a_header_value_is_ignored() -> None:
    protocol, pipe = connected(answer)
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked \t\r\n\r\n0\r\n\r\n"
    protocol.data_received(chunked)
    for _ in range(9):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204]


@SLOW
async def test_lost_client_is_not_counted() -> None:
    protocol, _ = connected()
    protocol.data_received(BEGINNING)
    counted = [in_progress(protocol)]
    protocol.connection_lost(None)
    counted.append(in_progress(protocol))
    assert counted == [0, 0]


@SLOW
async def test_request_with_a_complete_body_is_counted() -> None:
    protocol, _ = connected()
    counted: list[int] = []
    for sent in (BEGINNING, b"a" * 9, b"a"):
        protocol.data_received(sent)
        counted.append(in_progress(protocol))
    assert counted == [0, 0, 1]


@pytest.mark.requirement("NFR-017")
@pytest.mark.parametrize("end", ["read", "lost"])
async def test_unsent_bytes_count_until_read_or_lost(end: str) -> None:
    first, pipe = connected(answer)
    load = first.server_state
    pipe.unread = MAX_UNSENT_BYTES
    first.pause_writing()
    if end == "read":
        first.resume_writing()
    else:
        first.connection_lost(None)
    pipe_of_other = Pipe()
    pipe_of_other.unread = 1
    load.write_blocked(CoalescingTransport(pipe_of_other, asyncio.get_running_loop()))
    assert not pipe.aborted


@pytest.mark.requirement("FR-047")
async def test_slow_reader_of_a_rejection_is_not_counted() -> None:
    protocol, pipe = connected()
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(WHOLE.replace(b"/livez", b"/api"))
    assert statuses(pipe) == [503]
    protocol.pause_writing()
    reading = [pipe.reading]
    protocol.resume_writing()
    reading.append(pipe.reading)
    assert reading == [False, True]


@pytest.mark.requirement("FR-047")
async def test_rejection_contains_request_id_and_trace_id() -> None:
    protocol, pipe = connected()
    protocol.server_state.max_concurrent_requests = 0
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    fields = f"X-Request-ID: mine\r\ntraceparent: 00-{trace}-{'1' * 16}-01\r\n".encode()
    protocol.data_received(WHOLE.replace(b"/livez", b"/api")[:-2] + fields + b"\r\n")
    problem = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    assert (problem["instance"], problem["trace_id"]) == ("mine", trace)


async def test_response_without_a_body_is_sent() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(WHOLE.replace(b"GET", b"HEAD"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204]


@SLOW
async def test_large_unread_body_closes_the_connection() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not pipe.closed
    protocol.data_received(b"a" * 1_500_000)
    assert (pipe.reading, pipe.closed) == (False, True)


@SLOW
async def test_client_that_reads_again_is_counted_again() -> None:
    go_on = asyncio.Event()

    async def answer_in_two(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"b"})

    protocol, _ = connected(answer_in_two)
    protocol.data_received(API)
    await asyncio.sleep(0)
    counted: list[int] = []
    for turn in (protocol.pause_writing, protocol.resume_writing, go_on.set):
        turn()
        for _ in range(3):
            await asyncio.sleep(0)
        counted.append(in_progress(protocol))
    assert counted == [0, 1, 0]


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_rejection_has_a_body_except_for_head(method: str, *, has_body: bool) -> None:
    protocol, pipe = connected()
    protocol.server_state.max_concurrent_requests = 0
    protocol.data_received(f"{method} /api HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head, _, body = pipe.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert bool(body) is has_body
    assert len(head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]) == len(str(UUID(int=0)))


@SLOW
@pytest.mark.parametrize(("unwanted", "reading_stopped"), [(1_048_576, False), (1_048_577, True)])
async def test_drained_body_is_limited_to_one_mebibyte(
    unwanted: int, *, reading_stopped: bool
) -> None:
    protocol, _ = connected(answer)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    protocol.data_received(b"a" * unwanted)
    assert protocol.reading_stopped is reading_stopped


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize(
    ("app", "expect", "begins"),
    [
        (answer, b"", [b"HTTP/1.1 204 "]),
        (answer, b"Expect: 100-continue\r\n", [b"HTTP/1.1 204 "]),
        (read, b"Expect: 100-continue\r\n", [b"HTTP/1.1 100 ", b"HTTP/1.1 204 "]),
    ],
    ids=["plain", "rejected early", "asked for"],
)
async def test_response_is_one_write_and_interim_responses_are_immediate(
    app: Any, expect: bytes, begins: list[bytes]
) -> None:
    protocol, pipe = connected(app)
    written: list[bytes] = []
    pipe.write = written.append  # type: ignore[method-assign, assignment]
    protocol.data_received(BEGINNING[:-2] + expect + b"\r\n")
    await settle()
    protocol.data_received(b"a" * 10)
    await settle()
    assert [data[:13] for data in written] == begins


@SLOW
async def test_pipelined_request_waits_until_the_response_is_read() -> None:
    begun: list[int] = []

    async def begin_and_answer(scope: Any, receive: Any, send: Any) -> None:
        begun.append(len(begun))
        await answer(scope, receive, send)

    protocol, pipe = connected(begin_and_answer)

    def write_and_wait(data: bytes) -> None:
        pipe.written += data
        protocol.pause_writing()

    pipe.write = write_and_wait  # type: ignore[method-assign]
    protocol.data_received(WHOLE * 3)
    for number in (1, 2, 3):
        for _ in range(9):
            await asyncio.sleep(0)
        assert statuses(pipe) == [204] * number
        assert len(begun) == number
        protocol.resume_writing()
    assert not protocol.write_blocked


# --- bodies whose framing has no end -------------------------------------------------------------

FRAMING = pytest.mark.requirement("FR-025")
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@FRAMING
@pytest.mark.parametrize(
    "begin", [b"1;a=", b"0\r\nX: ", b"0\r\nX"], ids=["extension", "trailer", "name"]
)
async def test_each_part_of_chunked_framing_is_limited(begin: bytes) -> None:
    protocol, pipe = connected(read)
    protocol.data_received(CHUNKED + begin)
    await settle()
    protocol.data_received(b"a" * MAX_FRAMING_BYTES)
    assert not protocol.reading_stopped
    protocol.data_received(b"a")
    await settle()
    assert (statuses(pipe), pipe.closed) == ([413], True)


@FRAMING
async def test_total_chunked_framing_is_limited_without_its_content() -> None:
    protocol, pipe = connected(read)
    protocol.data_received(CHUNKED)
    piece = b"1;%b\r\na\r\n" % (b"x" * 1000)
    framing = len(piece) - 1
    for _ in range(MAX_TOTAL_FRAMING_BYTES // framing):
        protocol.data_received(piece)
    await settle()
    assert (protocol.reading_stopped, statuses(pipe)) == (False, [])
    protocol.data_received(piece)
    await settle()
    assert (statuses(pipe), pipe.closed) == ([413], True)


@FRAMING
async def test_trailer_fields_are_limited_in_total() -> None:
    protocol, pipe = connected(read)
    protocol.data_received(CHUNKED + b"0\r\n")
    for _ in range(MAX_FRAMING_BYTES // 6 + 1):
        protocol.data_received(b"a: b\r\n")
    await settle()
    assert statuses(pipe) == [413]


# --- what is logged and counted ------------------------------------------------------------------

OWN = b"X-Request-ID: mine\r\n"
REJECTED = {
    "garbage": (b"Buy milk\r\n\r\n", None, 400),
    "no Host": (b"PUT /a HTTP/1.1\r\n" + OWN + b"\r\n", "PUT", 400),
    "431": (
        b"GET /a HTTP/1.1\r\nHost: a\r\n" + OWN + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
        "GET",
        431,
    ),
    "501": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n" + OWN + b"\r\n", "CONNECT", 501),
}


@pytest.mark.requirement("FR-041", "FR-049")
@pytest.mark.parametrize(("sent", "method", "status"), REJECTED.values(), ids=REJECTED)
async def test_rejected_request_is_logged_and_measured_once(
    sent: bytes, method: str | None, status: int
) -> None:
    metrics = Metrics(PoolStats(lambda: 0, lambda: 0, lambda: 0))
    protocol, pipe = connected(answer, metrics)
    with capture_logs() as lines:
        protocol.data_received(WHOLE + sent)
        await settle()
    assert statuses(pipe) == [204, status]
    told = [(line["method"], line["status"], line["request_id"] == "mine") for line in lines]
    assert told == [("GET", 204, False), (method, status, method is not None)]
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
    protocol, pipe = connected()
    protocol.data_received(b"HEAD / HTTP/1.1\r\n\r\n")
    await settle()
    assert statuses(pipe) == [400]
    assert pipe.written.endswith(b"\r\n\r\n")


# --- requests that cannot be read to their end, beside others ------------------------------------


async def test_response_started_before_a_body_error_is_completed() -> None:
    """A streaming response goes on; the connection ends after it."""
    go_on = asyncio.Event()

    async def stream(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        event = asyncio.create_task(receive())
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"whole"})
        events.append((await event)["type"])

    events: list[str] = []
    protocol, pipe = connected(stream)
    protocol.data_received(CHUNKED)
    await settle()
    protocol.data_received(b"zz\r\n")
    await settle()
    assert not pipe.closed
    go_on.set()
    await settle()
    assert (statuses(pipe), pipe.closed, events) == ([200], True, ["http.disconnect"])


async def test_requests_of_a_lost_connection_are_disconnected() -> None:
    told: list[str] = []

    async def listen(_: Any, receive: Any, __: Any) -> None:
        while (event := await receive())["type"] != "http.disconnect":
            pass
        told.append(event["type"])

    protocol, _ = connected(listen)
    protocol.data_received(WHOLE + WHOLE)
    await settle()
    protocol.connection_lost(None)
    await settle()
    assert told == ["http.disconnect"]


async def test_nothing_is_parsed_after_a_protocol_error() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE + b"nonsense\r\n\r\n")
    assert not pipe.reading
    protocol.data_received(WHOLE)
    assert protocol.eof_received() is True
    assert len(protocol.queue) == 2
