"""The protocol by itself, fed piece by piece."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from uvicorn import Config
from uvicorn.server import ServerState

from app.transport import HEAD_BYTES_AT_MOST, Protocol

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

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

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
    protocol, pipe = Protocol(config, ServerState(), {}), Pipe()
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
async def test_a_connection_with_a_request_under_way_is_not_kept() -> None:
    protocol, pipe = connected()
    protocol.data_received(WHOLE)
    protocol.shutdown()
    assert not pipe.closed
    assert not protocol.cycle.keep_alive
