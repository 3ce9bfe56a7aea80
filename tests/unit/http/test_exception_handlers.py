"""Conversion of exceptions to problems."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from litestar import Request, post
from litestar.exceptions import (
    ClientException,
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotAuthorizedException,
    NotFoundException,
    PermissionDeniedException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from structlog.testing import capture_logs

from app.domain.tasks.problems import TaskNotFound
from app.http.exception_handlers import (
    EXCEPTION_HANDLERS,
    allow_header,
    handle_http_exception,
    handle_problem,
    handle_unexpected_exception,
)
from app.http.problems import InvalidParameter, ProblemError

pytestmark = pytest.mark.requirement("FR-027")


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def request() -> Request[Any, Any, Any]:
    """Return a request with the state that the middleware sets."""
    scope: Any = {
        "type": "http",
        "state": {"request_id": "request-1", "trace_id": TRACE},
    }
    return Request(scope)


@pytest.mark.requirement("FR-030")
@pytest.mark.parametrize(
    ("methods", "value"),
    [
        ([], "OPTIONS"),
        (["GET"], "GET, HEAD, OPTIONS"),
        (["POST", "GET"], "GET, HEAD, OPTIONS, POST"),
        (["OPTIONS", "POST"], "OPTIONS, POST"),
        (["PUT", "PATCH", "GET", "DELETE"], "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
    ],
)
def test_allow_lists_every_method_in_order(methods: list[str], value: str) -> None:
    assert allow_header(methods) == value


@pytest.mark.parametrize(
    ("exception", "status", "type_"),
    [
        (NotFoundException(), 404, "/problems/path-not-found"),
        (MethodNotAllowedException(headers={"allow": "GET"}), 405, "/problems/method-not-allowed"),
        (ClientException(), 400, "/problems/malformed-request"),
        (NotAuthorizedException(), 401, "about:blank"),
        (PermissionDeniedException(), 403, "about:blank"),
        (HTTPException(status_code=429), 429, "about:blank"),
    ],
)
def test_litestar_exception_becomes_a_problem(
    exception: HTTPException, status: int, type_: str
) -> None:
    response = handle_http_exception(request(), exception)
    body = msgspec.json.decode(response.content)
    assert (response.status_code, body["status"], body["type"]) == (status, status, type_)
    assert response.media_type == "application/problem+json"
    assert (body["instance"], body["trace_id"]) == ("request-1", TRACE)


@pytest.mark.requirement("FR-230")
@pytest.mark.parametrize("limit", [1_000, 2_000])
def test_problem_names_the_limit_of_the_operation(limit: int) -> None:
    @post("/", request_max_body_size=limit, sync_to_thread=False)
    def handler() -> None:
        pass

    oversized = request()
    oversized.scope["route_handler"] = handler
    response = handle_http_exception(oversized, RequestEntityTooLarge())
    body = msgspec.json.decode(response.content)
    assert (response.status_code, body["type"]) == (413, "/problems/content-too-large")
    assert body["detail"] == f"The request body exceeds {limit} bytes."


@pytest.mark.requirement("FR-030")
def test_method_not_allowed_lists_all_allowed_methods() -> None:
    exception = MethodNotAllowedException(headers={"allow": "POST, GET"})
    response = handle_http_exception(request(), exception)
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.requirement("FR-028", "FR-036")
@pytest.mark.parametrize(
    ("handler", "exception"),
    [
        (handle_unexpected_exception, ValueError("hunter2")),
        (handle_http_exception, InternalServerException("hunter2")),
        (handle_http_exception, HTTPException("hunter2", status_code=503)),
    ],
)
def test_unexpected_exception_is_logged_and_hidden_from_the_client(
    handler: Any, exception: Exception
) -> None:
    with capture_logs() as lines:
        response = handler(request(), exception)
    assert response.status_code == 500
    assert b"hunter2" not in response.content
    assert lines == [
        {
            "event": "unhandled exception",
            "log_level": "error",
            "request_id": "request-1",
            "trace_id": TRACE,
            "exc_info": exception,
        }
    ]


def test_problem_keeps_its_detail_and_headers() -> None:
    problem = InvalidParameter("Other words.", headers={"X-Test": "1"})
    response = handle_problem(request(), problem)
    assert response.headers["X-Test"] == "1"
    assert msgspec.json.decode(response.content)["detail"] == "Other words."


@pytest.mark.parametrize("exception_type", [ProblemError, HTTPException, Exception])
def test_every_exception_class_has_a_handler(exception_type: type[Exception]) -> None:
    assert exception_type in EXCEPTION_HANDLERS


def test_problem_is_not_logged_as_an_error() -> None:
    with capture_logs() as lines:
        handle_problem(request(), TaskNotFound())
    assert lines == []
