"""The middleware around applications that fail in ways Litestar prevents."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from litestar.types import Receive, Scope, Send
from structlog.testing import capture_logs

from app.http.cors import CORSPolicy
from app.http.middleware import HTTPMiddleware
from tests.support.client import ContractClient, assert_problem

LIVEZ: dict[str, Any] = {"path": "/livez", "method": "GET", "headers": []}


async def fail_immediately(_: Scope, __: Receive, ___: Send) -> None:
    message = "before the response"
    raise RuntimeError(message)


async def fail_during_response(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    message = "during the response"
    raise RuntimeError(message)


@pytest.mark.requirement("FR-027", "FR-029", "FR-036")
async def test_exception_outside_litestar_is_a_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with ContractClient(HTTPMiddleware(fail_immediately, [], CORSPolicy(()))) as client:
        response = await client.get("/livez", headers={"X-Request-ID": "mine"})
    problem = assert_problem(response, 500, "internal-error")
    assert problem["instance"] == "mine"
    assert "before the response" not in response.text
    assert "before the response" in capsys.readouterr().out


@pytest.mark.requirement("FR-027", "FR-050")
@pytest.mark.parametrize("path", ["/livez", "/things/"], ids=["exception", "problem"])
async def test_problem_contains_the_trace_id(path: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with ContractClient(HTTPMiddleware(fail_immediately, [], CORSPolicy(()))) as client:
        response = await client.get(path, headers={"traceparent": f"00-{trace}-{'1' * 16}-01"})
    assert response.json()["trace_id"] == trace


@pytest.mark.requirement("FR-036")
async def test_exception_after_the_response_started_propagates() -> None:
    app: Any = HTTPMiddleware(fail_during_response, [], CORSPolicy(()))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://tasks.test"
    ) as client:
        with pytest.raises(RuntimeError, match="during the response"):
            await client.get("/livez")


async def wait(_: Scope, __: Receive, ___: Send) -> None:
    await asyncio.Event().wait()


async def wait_during_response(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.Event().wait()


@pytest.mark.requirement("NFR-015")
async def test_request_cancelled_by_shutdown_gets_a_problem() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = [(b"x-request-id", b"mine"), (b"traceparent", f"00-{trace}-{'1' * 16}-01".encode())]
    with capture_logs() as lines:
        task = asyncio.create_task(
            call(HTTPMiddleware(wait, [], CORSPolicy(())), {**LIVEZ, "headers": headers})
        )
        await asyncio.sleep(0)
        task.cancel()
        start, body = await task
    assert start["status"] == 500
    assert b"/problems/internal-error" in body["body"]
    assert lines[0] == {
        "event": "request cancelled by shutdown",
        "log_level": "warning",
        "request_id": "mine",
        "trace_id": trace,
    }


@pytest.mark.requirement("NFR-015")
async def test_response_cancelled_by_shutdown_propagates() -> None:
    task = asyncio.create_task(
        call(HTTPMiddleware(wait_during_response, [], CORSPolicy(())), LIVEZ)
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- messages ------------------------------------------------------------------------------------


@get("/things/{name:str}")
async def get_thing() -> str:
    return "a thing"


LITESTAR_APP = Litestar([get_thing], openapi_config=None, logging_config=None)
THINGS: Any = HTTPMiddleware(LITESTAR_APP, LITESTAR_APP.routes, CORSPolicy(()))


async def call(app: HTTPMiddleware, scope: dict[str, Any]) -> list[Any]:
    """Return the messages of the response."""
    sent: list[Any] = []
    receive: Any = None

    async def record(message: Any) -> None:
        sent.append(message)

    full_scope: Any = {
        "type": "http",
        "query_string": b"",
        "raw_path": scope["path"].encode(),
        **scope,
    }
    await app(full_scope, receive, record)
    return sent


@pytest.mark.requirement("FR-029", "FR-030")
async def test_scope_and_response_headers() -> None:
    seen: list[Any] = []

    async def probe(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"text", "more_body": False})

    scope = {
        "method": "HEAD",
        "path": "/a/b",
        "raw_path": b"/a%2Fb%2f%41",
        "headers": [(b"x-request-id", b"mine")],
        "state": {"shared": 1},
    }
    messages = await call(HTTPMiddleware(probe, [], CORSPolicy(())), scope)
    assert (seen[0]["method"], seen[0]["path"]) == ("GET", "/a\ufffdb\ufffdA")
    assert seen[0]["state"] == {
        "shared": 1, "request_id": "mine", "trace_id": None, "omits_body": True
    }  # fmt: skip
    assert (scope["path"], scope["state"]) == ("/a/b", {"shared": 1})
    assert messages == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"a", b"b"),
                (b"x-request-id", b"mine"),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"private, no-cache"),
            ],
        },
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


@pytest.mark.requirement("FR-037")
@pytest.mark.parametrize(("method", "allowed"), [("OPTIONS", b"GET, HEAD, OPTIONS"), ("GET", None)])
async def test_preflight_from_allowed_origin(method: str, allowed: bytes | None) -> None:
    request_headers = [(b"origin", b"https://a.test"), (b"access-control-request-method", b"PUT")]
    middleware: Any = HTTPMiddleware(
        LITESTAR_APP, LITESTAR_APP.routes, CORSPolicy(("https://a.test",))
    )
    start, _ = await call(
        middleware, {"method": method, "path": "/things/", "headers": request_headers}
    )
    headers = dict(start["headers"])
    assert headers[b"access-control-allow-origin"] == b"https://a.test"
    start, _ = await call(
        middleware, {"method": method, "path": "/things/1", "headers": request_headers}
    )
    assert dict(start["headers"]).get(b"access-control-allow-methods") == allowed


@pytest.mark.requirement("FR-029", "FR-030")
async def test_options_response_is_two_messages() -> None:
    scope = {"method": "OPTIONS", "path": "/things/1", "headers": [(b"x-request-id", b"mine")]}
    start, body = await call(THINGS, scope)
    assert start["headers"][0] == (b"allow", b"GET, HEAD, OPTIONS")
    assert body == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.requirement("FR-027")
async def test_middleware_problem_has_content_type_and_length() -> None:
    start, body = await call(THINGS, {"method": "GET", "path": "/things/", "headers": []})
    assert start["headers"][:2] == [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body["body"])).encode()),
    ]


# --- the log -------------------------------------------------------------------------------------


async def log_lines(app: Any, method: str, path: str, **headers: str) -> list[Any]:
    """Return the log lines of one request, without their duration."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        with capture_logs() as lines:
            await client.request(method, path, headers={"X-Request-ID": "mine", **headers})
    durations = [line.pop("duration_ms") for line in lines if "duration_ms" in line]
    assert all(0 <= milliseconds < 10_000 for milliseconds in durations)
    assert [milliseconds == round(milliseconds, 3) for milliseconds in durations] == [True]
    return lines


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/things/1", "/things/{name}", 200),
        ("HEAD", "/things/1", "/things/{name}", 200),
        ("OPTIONS", "/things/1", "/things/{name}", 204),
        ("DELETE", "/things/1", "/things/{name}", 405),
        ("GET", "/things/1/", None, 404),
        ("GET", "/things//1", None, 404),
        ("OPTIONS", "/things", None, 404),
    ],
)
async def test_request_is_logged_with_its_route(
    method: str, path: str, route: str | None, status: int
) -> None:
    (line,) = await log_lines(THINGS, method, f"{path}?q=1")
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": method,
        "route": route,
        "status": status,
        "request_id": "mine",
        "trace_id": None,
    }


@pytest.mark.requirement("FR-041")
@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        ("00-" + "1" * 32 + "-" + "a" * 16 + "-01", "1" * 32),
        ("fe-" + "1" * 32 + "-" + "a" * 16 + "-00", "1" * 32),
        ("ff-" + "1" * 32 + "-" + "a" * 16 + "-01", None),
        ("00-" + "0" * 32 + "-" + "a" * 16 + "-01", None),
        ("00-" + "1" * 32 + "-" + "0" * 16 + "-01", None),
        ("00-" + "1" * 31 + "-" + "a" * 16 + "-01", None),
        ("00-" + "1" * 32 + "-" + "A" * 16 + "-01", None),
        ("00-" + "1" * 32 + "-" + "a" * 16, None),
        ("00-" + "1" * 32 + "-" + "a" * 16 + "-01-more", None),
    ],
)
async def test_valid_trace_id_is_logged(traceparent: str, trace_id: str | None) -> None:
    (line,) = await log_lines(THINGS, "GET", "/things/1", traceparent=traceparent)
    assert line["trace_id"] == trace_id


@pytest.mark.requirement("FR-041")
async def test_duration_is_logged_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0123456])
    monkeypatch.setattr("app.http.middleware.perf_counter", lambda: next(clock))
    with capture_logs() as lines:
        await call(THINGS, {"method": "GET", "path": "/things/1", "headers": []})
    assert lines[0]["duration_ms"] == 12.346


@pytest.mark.requirement("FR-036", "FR-041")
async def test_exception_is_logged_with_its_request() -> None:
    error, line = await log_lines(
        HTTPMiddleware(fail_immediately, [], CORSPolicy(())), "GET", "/livez"
    )
    assert error == {
        "event": "unhandled exception",
        "log_level": "error",
        "request_id": "mine",
        "trace_id": None,
        "exc_info": True,
    }
    assert (line["status"], line["route"]) == (500, None)


@pytest.mark.requirement("FR-041")
async def test_request_without_a_response_has_status_0() -> None:
    async def send_nothing(_: Scope, __: Receive, ___: Send) -> None:
        """Send no response, as after a disconnect."""

    scope = {"method": "GET", "path": "/livez", "headers": []}
    with capture_logs() as lines:
        assert await call(HTTPMiddleware(send_nothing, [], CORSPolicy(())), scope) == []
    assert [line["status"] for line in lines] == [0]
