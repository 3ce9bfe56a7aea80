"""Exception handlers: convert every exception of a route handler to a problem (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from app.http.headers import AllowHeaders
from app.http.problems import (
    MEDIA_TYPE,
    ContentTooLarge,
    HTTPProblem,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    PathNotFound,
    ProblemError,
)
from app.logging import log


def allow_header(methods: Iterable[str]) -> str:
    """Return the `Allow` header of a path with these methods; OPTIONS is added, and HEAD to GET."""
    names = {str(method) for method in methods} | {"OPTIONS"}
    return ", ".join(sorted(names | {"HEAD"} if "GET" in names else names))


def handle_problem(request: Request[Any, Any, Any], problem: ProblemError) -> Response[bytes]:
    """Return the response of a problem, `application/problem+json`."""
    return Response(
        msgspec.json.encode(problem.to_problem(**_ids(request))),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def handle_http_exception(
    request: Request[Any, Any, Any], exception: HTTPException
) -> Response[bytes]:
    """Return the problem response of an exception by Litestar or a plug-in guard or middleware."""
    if exception.status_code >= HTTP_500_INTERNAL_SERVER_ERROR:
        return handle_unexpected_exception(request, exception)
    if isinstance(exception, RequestEntityTooLarge):
        limit = request.route_handler.resolve_request_max_body_size()
        return handle_problem(request, ContentTooLarge(f"The request body exceeds {limit} bytes."))
    return handle_problem(request, _to_problem(exception, routed="route_handler" in request.scope))


def handle_unexpected_exception(
    request: Request[Any, Any, Any], exception: Exception
) -> Response[bytes]:
    """Log an unexpected exception and return `500 /problems/internal-error` without details."""
    log.error("unhandled exception", **_ids(request), exc_info=exception)
    return handle_problem(request, InternalError())


def _ids(request: Request[Any, Any, Any]) -> dict[str, Any]:
    state = request.scope["state"]
    return {
        "request_id": state["request_id"],
        "trace_id": state["trace_id"],
    }


def _to_problem(exception: HTTPException, *, routed: bool) -> ProblemError:
    if routed:
        return HTTPProblem(exception)
    if isinstance(exception, NotFoundException):
        return PathNotFound()
    if isinstance(exception, MethodNotAllowedException):
        methods = (exception.headers or {}).get("allow", "").split(", ")
        return MethodNotAllowed(headers=AllowHeaders(allow_header(methods)).to_dict())
    if type(exception) is ClientException:
        return MalformedRequest()  # Litestar raises it for an invalid Host
    return HTTPProblem(exception)


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    ProblemError: handle_problem,
    HTTPException: handle_http_exception,
    Exception: handle_unexpected_exception,
}
