"""The protocol by itself, fed piece by piece."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from uvicorn import Config

from app.cors import Cors
from app.load import Load
from app.transport import (
    AHEAD_AT_MOST,
    HEAD_BYTES_AT_MOST,
    PATIENCE,
    Protocol,
    Wait,
)

pytestmark = pytest.mark.requirement("FR-027")

START = b"GET /livez HTTP/1.1\r\nX: "
UNFINISHED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"
WHOLE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


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


async def answer(_: Any, __: Any, send: Any) -> None:
    """An application that answers at once."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connected(app: Any = wait) -> tuple[Protocol, Pipe]:
    """A protocol with its connection."""
    config = Config(app, log_config=None, http=Protocol, lifespan="off")
    config.load()
    config.loaded_app = app
    protocol, pipe = Protocol(config, Load(16, Cors(())), {}), Pipe()
    protocol.connection_made(pipe)
    return protocol, pipe


def problem(pipe: Pipe) -> dict[str, Any]:
    """The body of the answer, which ends the connection."""
    assert pipe.closed
    found: dict[str, Any] = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    return found


async def test_a_field_may_be_as_long_as_the_head_before_it_ends() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    for _ in range(4):
        protocol.data_received(b"a" * (HEAD_BYTES_AT_MOST // 4))
    assert not pipe.closed


async def test_one_byte_more_is_refused_before_the_field_ends() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    for _ in range(4):
        protocol.data_received(b"a" * (HEAD_BYTES_AT_MOST // 4))
    protocol.data_received(b"a")
    assert problem(pipe)["status"] == 431


async def test_a_head_that_comes_at_once_is_counted_too() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(START + b"a" * HEAD_BYTES_AT_MOST + b"\r\nHost: a\r\n\r\n")
    assert problem(pipe)["status"] == 431


async def test_a_head_is_counted_for_each_request_anew() -> None:
    protocol, pipe = connected(answer)
    for _ in range(2):
        protocol.data_received(START)
        protocol.data_received(b"a" * (HEAD_BYTES_AT_MOST - 1000))
        protocol.data_received(b"\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not pipe.closed
    assert pipe.written.count(b" 204 ") == 2


@pytest.mark.parametrize(
    ("size", "kind"), [(0, "malformed-request"), (1, "header-fields-too-large")]
)
async def test_nonsense_after_a_long_head_is_told_from_a_head_too_long(
    size: int, kind: str
) -> None:
    protocol, pipe = connected()
    counted = len("/livez") + len("X") + len(": \r\n")
    field = b"a" * (HEAD_BYTES_AT_MOST - counted + size)
    protocol.data_received(START + field + b"\r\nY: \r\n: nonsense\r\n\r\n")
    assert problem(pipe)["type"] == f"/problems/{kind}"


async def test_a_connection_without_a_request_is_closed_with_the_clients_side() -> None:
    protocol, pipe = connected()
    assert protocol.eof_received() is False
    assert pipe.written == b""


async def test_so_is_one_whose_request_was_answered() -> None:
    protocol, _ = connected(answer)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    assert protocol.eof_received() is False


async def test_a_request_that_is_still_answered_is_the_last() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    assert protocol.eof_received() is True
    assert protocol.cycle.keep_alive is False
    assert not pipe.closed


async def test_a_body_that_will_not_come_is_refused() -> None:
    protocol, pipe = connected()
    protocol.data_received(UNFINISHED)
    assert protocol.eof_received() is True
    told = problem(pipe)
    assert (told["status"], told["detail"]) == (400, "The body was cut short.")


async def test_a_head_that_will_not_come_is_refused() -> None:
    protocol, pipe = connected()
    protocol.data_received(START)
    assert protocol.eof_received() is True
    assert problem(pipe)["type"] == "/problems/malformed-request"


async def test_two_hosts_are_refused_whatever_the_method() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(b"OPTIONS /livez HTTP/1.1\r\nHost: a\r\nX: b\r\nhost: a\r\n\r\n")
    assert problem(pipe)["type"] == "/problems/malformed-request"


async def test_one_host_beside_other_fields_is_taken() -> None:
    protocol, pipe = connected()
    protocol.data_received(b"GET /livez HTTP/1.1\r\nX: a\r\nHost: a\r\nX: a\r\n\r\n")
    assert not pipe.closed


async def test_what_is_refused_here_has_its_fields_and_its_line_in_the_log() -> None:
    protocol, pipe = connected()
    with capture_logs() as lines:
        protocol.data_received(b"nonsense\r\n\r\n")
    head, _, body = pipe.written.partition(b"\r\n\r\n")
    instance = problem(pipe)["instance"]
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
            "duration_ms": 0.0,
            "request_id": instance,
            "trace_id": None,
        }
    ]


# --- the end of the service ----------------------------------------------------------------------


@pytest.mark.requirement("NFR-015")
async def test_a_kept_connection_may_bring_one_more_request_at_the_end() -> None:
    protocol, pipe = connected(answer)
    protocol.shutdown()
    assert not pipe.closed
    protocol.data_received(WHOLE)
    await asyncio.gather(*protocol.tasks)
    assert b"204 No Content\r\nconnection: close\r\n" in pipe.written
    assert pipe.closed


@pytest.mark.requirement("NFR-015")
@pytest.mark.parametrize(("sent", "closed"), [(b"", True), (START, False)])
async def test_a_connection_on_which_nothing_has_begun_is_closed_after_a_moment(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    monkeypatch.setattr("app.transport.LEAVE_SECONDS", 0)
    protocol, pipe = connected()
    protocol.data_received(sent)
    protocol.shutdown()
    await asyncio.sleep(0.01)
    assert pipe.closed is closed


@pytest.mark.requirement("NFR-015")
async def test_that_moment_is_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, _ = connected()
    later: list[float] = []
    monkeypatch.setattr(protocol, "loop", SimpleNamespace(call_later=lambda s, _: later.append(s)))
    protocol.shutdown()
    assert later == [1.0]


@pytest.mark.requirement("NFR-015")
async def test_a_connection_with_a_request_under_way_is_not_kept() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    protocol.shutdown()
    assert not pipe.closed
    assert not protocol.cycle.keep_alive


# --- time ----------------------------------------------------------------------------------------

SLOW = pytest.mark.requirement("FR-048")
BEGINNING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
BEGUN = {
    Wait.FIRST: b"",
    Wait.HEAD: START,
    Wait.BODY: UNFINISHED,
    Wait.UNWANTED: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
    Wait.NEXT: WHOLE,
}
STATUS = {Wait.HEAD: [408], Wait.BODY: [408], Wait.UNWANTED: [204], Wait.NEXT: [204]}


def statuses(pipe: Pipe) -> list[int]:
    return [int(each[:3]) for each in pipe.written.split(b"HTTP/1.1 ")[1:]]


@SLOW
@pytest.mark.parametrize("kind", BEGUN)
async def test_each_wait_ends_at_its_limit_and_not_before(kind: Wait) -> None:
    protocol, pipe = connected(wait if kind is Wait.BODY else answer)
    protocol.data_received(BEGUN[kind])
    await asyncio.sleep(0)
    for now in (100.0, 100.0 + PATIENCE[kind] - 0.1):
        protocol.look(now)
        assert not pipe.closed
    protocol.look(100.0 + PATIENCE[kind])
    assert pipe.closed
    assert statuses(pipe) == STATUS.get(kind, [])


@SLOW
async def test_time_is_counted_from_when_a_wait_was_first_seen() -> None:
    protocol, pipe = connected(answer)
    protocol.look(0.0)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    protocol.look(1000.0)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    protocol.look(2000.0)
    assert not pipe.closed


@SLOW
async def test_what_is_begun_after_an_answer_has_time_of_its_own() -> None:
    protocol, pipe = connected(answer)
    for now in (0.0, 1000.0):
        protocol.data_received(WHOLE + START)
        await asyncio.sleep(0)
        protocol.look(now)
        protocol.data_received(b"a\r\n\r\n")
        await asyncio.sleep(0)
    assert not pipe.closed


@SLOW
@pytest.mark.parametrize("sent", [WHOLE, WHOLE + START, WHOLE + UNFINISHED], ids=len)
async def test_while_it_is_the_services_turn_no_time_is_counted(sent: bytes) -> None:
    protocol, pipe = connected()
    protocol.data_received(sent)
    for now in (0.0, 1000.0, 2000.0):
        protocol.look(now)
    assert not pipe.closed


@SLOW
@pytest.mark.parametrize("closes", [False, True])
async def test_a_client_that_reads_nothing_is_cut_off(closes: bool) -> None:  # noqa: FBT001
    protocol, pipe = connected(answer)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    pipe.unread, pipe.closed = 1, closes
    cut: list[bool] = []
    for now in (0.0, PATIENCE[Wait.READING] - 0.1, PATIENCE[Wait.READING]):
        protocol.look(now)
        cut.append(pipe.aborted)
    assert cut == [False, False, True]


@SLOW
async def test_as_many_may_be_sent_ahead_one_by_one_and_no_more() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    for number in range(AHEAD_AT_MOST):
        protocol.data_received(WHOLE)
        assert len(protocol.pipeline) == number + 1
    protocol.data_received(WHOLE)
    assert protocol.is_deaf
    assert len(protocol.pipeline) == AHEAD_AT_MOST
    assert not pipe.reading


@SLOW
async def test_after_as_many_as_may_be_sent_ahead_nothing_is_heard() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE * (AHEAD_AT_MOST + 1))
    for sent in (WHOLE, b"nonsense\r\n\r\n"):
        protocol.data_received(sent)
    assert len(protocol.tasks) == 1
    assert len(protocol.pipeline) == AHEAD_AT_MOST - 1
    assert pipe.written == b""


@SLOW
async def test_a_connection_that_is_being_closed_is_left_alone() -> None:
    protocol, pipe = connected()
    protocol.data_received(b"nonsense\r\n\r\n")
    for now in (0.0, 1000.0):
        protocol.look(now)
    assert statuses(pipe) == [400]


# --- clients that do not read --------------------------------------------------------------------


@SLOW
async def test_nothing_is_read_from_a_client_that_does_not_read() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    seen: list[tuple[bool, bool]] = []
    for turn in (protocol.pause_writing, protocol.resume_writing):
        turn()
        seen.append((pipe.reading, protocol in protocol.server_state.waiting))
    assert seen == [(False, True), (True, False)]


@SLOW
async def test_a_client_that_is_gone_takes_no_place() -> None:
    protocol, _ = connected()
    protocol.data_received(BEGINNING)
    assert protocol.server_state.waiting == {protocol}
    protocol.connection_lost(None)
    assert protocol.server_state.waiting == set()


@SLOW
async def test_a_body_that_has_come_waits_for_nobody() -> None:
    protocol, _ = connected()
    protocol.data_received(BEGINNING)
    protocol.data_received(b"a" * 9)
    assert protocol.server_state.waiting == {protocol}
    protocol.data_received(b"a")
    assert protocol.server_state.waiting == set()


@pytest.mark.requirement("FR-047")
async def test_a_refusal_that_is_read_late_is_no_request_that_was_served() -> None:
    protocol, pipe = connected()
    protocol.server_state.at_once = 0
    protocol.data_received(WHOLE.replace(b"/livez", b"/api"))
    assert statuses(pipe) == [503]
    protocol.pause_writing()
    reading = [pipe.reading]
    protocol.resume_writing()
    reading.append(pipe.reading)
    assert reading == [False, True]
    assert protocol.server_state.total_requests == 0


async def test_an_answer_frees_its_place_at_once() -> None:
    places: list[int] = []

    async def answer_and_look(scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)
        places.append(len(protocol.server_state.tasks))

    protocol, _ = connected(answer_and_look)
    protocol.data_received(WHOLE)
    assert len(protocol.server_state.tasks) == 1
    for _ in range(3):
        await asyncio.sleep(0)
    assert places == [0]


@pytest.mark.requirement("FR-047")
async def test_a_refusal_for_load_names_the_request_and_its_trace() -> None:
    protocol, pipe = connected()
    protocol.server_state.at_once = 0
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    fields = f"X-Request-ID: mine\r\ntraceparent: 00-{trace}-{'1' * 16}-01\r\n".encode()
    protocol.data_received(WHOLE.replace(b"/livez", b"/api")[:-2] + fields + b"\r\n")
    problem = json.loads(pipe.written.partition(b"\r\n\r\n")[2])
    assert (problem["instance"], problem["trace_id"]) == ("mine", trace)


async def test_an_answer_without_a_body_is_sent_as_well() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(WHOLE.replace(b"GET", b"HEAD"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert statuses(pipe) == [204]


@SLOW
async def test_what_is_no_longer_heard_is_not_read_and_ends_the_connection() -> None:
    protocol, pipe = connected(answer)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not pipe.closed
    protocol.data_received(b"a" * 1_500_000)
    assert (pipe.reading, pipe.closed) == (False, True)


@SLOW
async def test_a_client_that_reads_again_takes_its_place_again() -> None:
    go_on = asyncio.Event()

    async def answer_in_two(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"b"})

    protocol, _ = connected(answer_in_two)
    protocol.data_received(WHOLE)
    await asyncio.sleep(0)
    protocol.pause_writing()
    assert protocol.server_state.waiting == {protocol}
    protocol.resume_writing()
    assert protocol.server_state.waiting == set()
    protocol.server_state.waiting.add(protocol)
    go_on.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert protocol.server_state.waiting == set()


@pytest.mark.requirement("FR-047")
@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_a_refusal_for_load_has_a_body_unless_it_answers_head(
    method: str, *, has_body: bool
) -> None:
    protocol, pipe = connected()
    protocol.server_state.at_once = 0
    protocol.data_received(f"{method} /api HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head, _, body = pipe.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert bool(body) is has_body
    assert len(head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]) == len(str(UUID(int=0)))


@SLOW
@pytest.mark.parametrize(("unwanted", "is_deaf"), [(1_048_576, False), (1_048_577, True)])
async def test_of_a_body_that_is_not_wanted_a_mebibyte_is_read(
    unwanted: int, *, is_deaf: bool
) -> None:
    protocol, _ = connected(answer)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    protocol.data_received(b"a" * unwanted)
    assert protocol.is_deaf is is_deaf


@pytest.mark.requirement("NFR-004")
@pytest.mark.parametrize(("expect", "writes"), [(b"", 1), (b"Expect: 100-continue\r\n", 2)])
async def test_an_answer_is_one_write_unless_its_client_waits_to_go_on(
    expect: bytes, writes: int
) -> None:
    protocol, pipe = connected(answer)
    written: list[bytes] = []
    pipe.write = written.append  # type: ignore[method-assign, assignment]
    protocol.data_received(WHOLE[:-2] + expect + b"\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(written) == writes
    assert written[0].startswith(b"HTTP/1.1 204 ")


@SLOW
async def test_what_was_sent_ahead_is_not_begun_before_the_answer_ahead_is_taken() -> None:
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
    assert not protocol.is_unread
