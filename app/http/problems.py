"""Problem types (RFC 9457), each an exception class.

The class name in kebab case is the `type`. The table in the contract's tag `errors` lists the same
types; a test compares them.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar

import msgspec
from litestar.exceptions import HTTPException
from msgspec import Meta

from app.http.headers import (
    AllowHeaders,
    AuthenticateHeaders,
    RequestId,
    ResponseHeaders,
    RetryAfterHeaders,
    TraceId,
)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100
MAX_DETAIL_LENGTH = 1024
MAX_POINTER_LENGTH = 1024
MAX_NAME_LENGTH = 128
REASON_PHRASES = {status.value: status.phrase for status in HTTPStatus}

HeadersType = type[ResponseHeaders]  # a problem's own `type` hides the builtin one
Type = Annotated[str, Meta(max_length=128, extra_json_schema={"format": "uri-reference"})]
Title = Annotated[str, Meta(max_length=128)]
Status = Annotated[int, Meta(ge=400, le=599)]
Detail = Annotated[str, Meta(max_length=MAX_DETAIL_LENGTH)]
Pointer = Annotated[str, Meta(max_length=MAX_POINTER_LENGTH)]
Name = Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One error of a request: component `FieldError` of the contract."""

    pointer: Pointer | None = None
    parameter: Name | None = None
    detail: Detail


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response: component `Problem` of the contract."""

    type: Type
    title: Title
    status: Status
    detail: Detail
    instance: RequestId
    trace_id: TraceId | None
    errors: Annotated[Sequence[FieldError], Meta(max_length=MAX_ERRORS)]


# In the order of the contract's table: by status, then by definition. Each subclass adds itself.
PROBLEM_TYPES: list[type[ProblemError]] = []
# Advice that several problem types share.
RETRY = "Retry after the number of seconds in `Retry-After`."
READ_FIRST = "A write may or may not have been applied. Read the resource before you retry."


class ProblemError(Exception):
    """An exception that becomes an error response.

    `detail` and `headers` replace those of the problem type for this occurrence. Without `detail`,
    the text names the first of `errors`.
    """

    type: str
    status: int
    title: str
    detail: str
    advice: ClassVar[str] = ""
    headers_type: ClassVar[HeadersType] = ResponseHeaders

    def __init_subclass__(cls) -> None:
        slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
        cls.type = vars(cls).get("type", f"/problems/{slug}")
        if cls.type.startswith("/problems/"):
            insort(PROBLEM_TYPES, cls, key=lambda problem_type: problem_type.status)

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if detail is None:
            detail = _summarize(errors) if errors else type(self).detail
        self.detail_text = detail
        self.errors = errors[:MAX_ERRORS]
        self.headers = self.headers_type().to_dict() if headers is None else headers
        super().__init__(self.detail_text)

    def to_problem(self, request_id: str, trace_id: str | None = None) -> Problem:
        """Build the response body for the request with this ID."""
        return Problem(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.detail_text,
            instance=request_id,
            trace_id=trace_id,
            errors=self.errors,
        )


def _summarize(errors: Sequence[FieldError]) -> str:
    """Name the first error and count the others, of which a problem may list only some."""
    first, *others = errors
    text = f"{first.parameter or first.pointer or 'request body'}: {first.detail}"
    if others:
        at_least = "at least " if len(errors) >= MAX_ERRORS else ""
        plural = "s" if len(others) > 1 else ""
        text += f" (and {at_least}{len(others)} more error{plural})"
    return text[:MAX_DETAIL_LENGTH]


class MalformedRequest(ProblemError):
    """The bytes received are not an HTTP request."""

    status = HTTPStatus.BAD_REQUEST
    title = "Malformed request"
    detail = "The request could not be parsed as HTTP/1.1."
    advice = "Fix the client or the proxy: it does not send valid HTTP/1.1."


class InvalidParameter(ProblemError):
    """Parameters or headers are malformed, unknown or repeated."""

    status = HTTPStatus.BAD_REQUEST
    title = "Invalid parameter"
    detail = "One or more parameters or headers are invalid; see `errors`."
    advice = "Fix each parameter and header that `errors` lists."


class InvalidCursor(ProblemError):
    """The cursor was not issued for this query."""

    status = HTTPStatus.BAD_REQUEST
    title = "Invalid cursor"
    detail = "The cursor is invalid or belongs to a different query. Restart without `cursor`."
    advice = "Start again at the first page, without `cursor`."


class MalformedBody(ProblemError):
    """The body is not valid JSON, regardless of its schema."""

    status = HTTPStatus.BAD_REQUEST
    title = "Malformed request body"
    detail = "The request body is not valid UTF-8 JSON."
    advice = "Send a complete body of UTF-8 JSON without duplicate property names."


class PathNotFound(ProblemError):
    """The contract has no such path."""

    status = HTTPStatus.NOT_FOUND
    title = "Not found"
    detail = "No resource exists at this path."
    advice = "Compare the path with the contract. Letter case and slashes matter."


class MethodNotAllowed(ProblemError):
    """The path exists, but not with this method. Each occurrence sets `Allow`."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    title = "Method not allowed"
    detail = "This method is not supported here; see the `Allow` header."
    advice = "Use one of the methods in the `Allow` header."
    headers_type = AllowHeaders


class RequestTimeout(ProblemError):
    """The client sent an incomplete request and paused for too long."""

    status = HTTPStatus.REQUEST_TIMEOUT
    title = "Request timeout"
    detail = "The request was not received completely in time. Nothing was changed."
    advice = "Retry, and send the complete request without a pause."


class IdempotencyKeyInUse(ProblemError):
    """Another request with this `Idempotency-Key` is in progress."""

    status = HTTPStatus.CONFLICT
    title = "Idempotency key in use"
    detail = "Another request with this `Idempotency-Key` is in progress. Retry later."
    advice = RETRY
    headers_type = RetryAfterHeaders


class ReferenceNotFound(ProblemError):
    """The body refers to something that does not exist. Each occurrence names the property."""

    status = HTTPStatus.CONFLICT
    title = "Reference not found"
    detail = "The request body refers to a resource or time zone that does not exist; see `errors`."
    advice = "Check the ID or name in each property that `errors` lists."


class PreconditionFailed(ProblemError):
    """`If-Match` or `If-None-Match` is not satisfied; `detail` names the header."""

    status = HTTPStatus.PRECONDITION_FAILED
    title = "Precondition failed"
    detail = (
        "If-Match is not satisfied: the resource has a different ETag or does not exist. "
        "Nothing was changed."
    )
    exists = "If-None-Match is not satisfied: the resource already exists. Nothing was changed."
    contradictory = "If-Match and If-None-Match are never satisfied together. Nothing was changed."
    advice = (
        "Read the resource, decide whether the change still applies, and retry with the "
        "new ETag. With `If-None-Match`, the resource already exists."
    )


class ContentTooLarge(ProblemError):
    """The body exceeds the contract's limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Content too large"
    detail = "The request body exceeds 131072 bytes."
    advice = "Send a smaller body."


class UnsupportedMediaType(ProblemError):
    """The body is not declared as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported media type"
    detail = "Send the body as application/json."
    advice = "Send `Content-Type: application/json` and no `Content-Encoding`."


class InvalidBody(ProblemError):
    """The body is JSON that does not match its schema."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Invalid request body"
    detail = "The request body failed validation; see `errors`."
    advice = "Fix each property that `errors` lists."


class IdempotencyKeyReused(ProblemError):
    """The `Idempotency-Key` was already used with another body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Idempotency key reused"
    detail = "This `Idempotency-Key` was already used with a different request body."
    advice = "Use a new `Idempotency-Key` for each new resource."


class HeaderFieldsTooLarge(ProblemError):
    """The request line and headers exceed the contract's limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "Request headers too large"
    detail = "The request line and headers exceed 32768 bytes."
    advice = "Send fewer or shorter headers, or a shorter query."


class InternalError(ProblemError):
    """A bug in the service, or a request cancelled by shutdown."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Internal server error"
    detail = "An unexpected error occurred; it was logged with this request ID."
    advice = f"Report it with the request ID in `instance`. {READ_FIRST}"


class Unimplemented(ProblemError):
    """The request needs a part of HTTP that the service does not implement."""

    type = "/problems/not-implemented"
    status = HTTPStatus.NOT_IMPLEMENTED
    title = "Not implemented"
    detail = "The server supports neither CONNECT nor transfer codings other than chunked."
    advice = "Send the body with `Content-Length` or `Transfer-Encoding: chunked`."


class Overloaded(ProblemError):
    """The concurrency limit is reached."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Service overloaded"
    detail = (
        "Too many concurrent requests. Nothing was changed. "
        "Retry after the number of seconds in `Retry-After`."
    )
    advice = RETRY
    headers_type = RetryAfterHeaders


class DatabaseUnavailable(ProblemError):
    """The database is unreachable, overloaded, read-only or too slow."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Database unavailable"
    detail = (
        "The database is unavailable or did not respond in time. "
        "If this was a write, it may or may not have been applied."
    )
    advice = f"{RETRY} {READ_FIRST}"
    headers_type = RetryAfterHeaders


class NotReady(ProblemError):
    """Readiness only: the service cannot handle requests now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Service not ready"
    detail = "The database is unavailable or did not respond within 1 second."
    advice = "Use another replica until this one is ready."
    headers_type = RetryAfterHeaders


class HTTPProblem(ProblemError):
    """An HTTPException that a plug-in guard or middleware raised.

    RFC 9457, section 4.2.1: the type is `about:blank`, and the title is the reason phrase.
    """

    type = "about:blank"
    headers_type = AuthenticateHeaders

    def __init__(self, exception: HTTPException) -> None:
        super().__init__(exception.detail[:MAX_DETAIL_LENGTH], headers=exception.headers or {})
        self.status = exception.status_code
        self.title = REASON_PHRASES.get(exception.status_code, "Error")
