"""The kinds of problem, and the one shape in which each reaches a client (RFC 9457).

A kind is a class: its name in kebab case is its `type`. The contract's table under "Errors"
and this module hold the same kinds; a test compares them.
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
    """One fault of a request: component `Fault` of the contract."""

    pointer: Pointer | None = None
    parameter: Name | None = None
    detail: Detail


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error: component `Problem` of the contract."""

    type: Type
    title: Title
    status: Status
    detail: Detail
    instance: RequestId
    trace_id: TraceId | None
    errors: Annotated[Sequence[FieldError], Meta(max_length=MAX_ERRORS)]


# In the order of the contract's table: by status, then by definition. Each subclass adds itself.
PROBLEM_TYPES: list[type[ProblemError]] = []
# What a client can do, where several problem types share it.
REPEAT = "Send the request again after the seconds in `Retry-After`."
READ_FIRST = "A write may or may not have been applied: read before you send it again."


class ProblemError(Exception):
    """A request that is answered with an error."""

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
            insort(PROBLEM_TYPES, cls, key=lambda kind: kind.status)

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`detail` and `headers` stand in for the kind's own, for this occurrence."""
        self.detail_text = type(self).detail if detail is None else detail
        self.errors = errors[:MAX_ERRORS]
        self.headers = self.headers_type().to_dict() if headers is None else headers
        super().__init__(self.detail_text)

    def to_problem(self, request_id: str, trace_id: str | None = None) -> Problem:
        """The body that the request with this id gets, which need not be part of a trace."""
        return Problem(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.detail_text,
            instance=request_id,
            trace_id=trace_id,
            errors=self.errors,
        )


class MalformedRequest(ProblemError):
    """What arrived is not HTTP."""

    status = HTTPStatus.BAD_REQUEST
    title = "The request is not HTTP"
    detail = "The request cannot be read as HTTP/1.1."
    advice = "Correct the client or the proxy: it does not send valid HTTP/1.1."


class InvalidParameter(ProblemError):
    """Parameters or header fields are malformed, unknown or repeated."""

    status = HTTPStatus.BAD_REQUEST
    title = "A parameter is not valid"
    detail = "A parameter or header field is not valid."
    advice = "Correct each parameter and header field that `errors` names."


class InvalidCursor(ProblemError):
    """The cursor was not given out for this query."""

    status = HTTPStatus.BAD_REQUEST
    title = "The cursor is not valid here"
    detail = "Start again without a cursor."
    advice = "Start the list again without `cursor`."


class MalformedBody(ProblemError):
    """The body is not acceptable as JSON, whatever its schema."""

    status = HTTPStatus.BAD_REQUEST
    title = "The body is not acceptable JSON"
    detail = "The body is not JSON in UTF-8."
    advice = "Send the whole body as JSON in UTF-8, with each property once."


class PathNotFound(ProblemError):
    """The contract has no such path."""

    status = HTTPStatus.NOT_FOUND
    title = "There is no such path"
    detail = "No operation has this path."
    advice = "Compare the path with the contract. Letter case and slashes count."


class MethodNotAllowed(ProblemError):
    """The path exists, but not with this method. The occurrence brings `Allow`."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    title = "The path does not have this method"
    detail = "The header field Allow lists the methods of this path."
    advice = "Use one of the methods in the header field `Allow`."
    headers_type = AllowHeaders


class RequestTimeout(ProblemError):
    """The client began a request and did not go on with it."""

    status = HTTPStatus.REQUEST_TIMEOUT
    title = "The request did not arrive in time"
    detail = "The rest of the request did not arrive in time. Nothing was written."
    advice = "Send the request again, without a pause within it."


class IdempotencyKeyInUse(ProblemError):
    """Another request with this `Idempotency-Key` is being served."""

    status = HTTPStatus.CONFLICT
    title = "The idempotency key is in use"
    detail = "A request with this Idempotency-Key is being served; this one did nothing."
    advice = REPEAT
    headers_type = RetryAfterHeaders


class PreconditionFailed(ProblemError):
    """`If-Match` or `If-None-Match` does not hold."""

    status = HTTPStatus.PRECONDITION_FAILED
    title = "A precondition does not hold"
    detail = (
        "If-Match or If-None-Match does not hold for the task as it is now; nothing was written."
    )
    advice = (
        "Read the task, decide whether the change still applies, and send it with the new `etag`."
    )


class ContentTooLarge(ProblemError):
    """The body is over the contract's limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "The body is too large"
    detail = "A body has at most 131072 bytes."
    advice = "Send a smaller body."


class UnsupportedMediaType(ProblemError):
    """The body is not declared as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "The media type is not supported"
    detail = "Send the body as application/json."
    advice = "Send `Content-Type: application/json` and no `Content-Encoding`."


class InvalidBody(ProblemError):
    """The body is JSON that breaks its schema."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "The body breaks its schema"
    detail = "The body has faults."
    advice = "Correct each property that `errors` names."


class IdempotencyKeyReused(ProblemError):
    """The `Idempotency-Key` was sent before, with another body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "The idempotency key was used before"
    detail = "This Idempotency-Key was sent with another body before; nothing was written."
    advice = "Use a new `Idempotency-Key` for each new task."


class HeaderFieldsTooLarge(ProblemError):
    """The request line and header fields are over the contract's limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "The header fields are too large"
    detail = "The request line and header fields have at most 32768 bytes."
    advice = "Send fewer or shorter header fields, or a shorter query."


class InternalError(ProblemError):
    """A fault of ours."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "The service failed"
    detail = "The fault was logged under this request's id."
    advice = f"Report it with the request's id, `instance`. {READ_FIRST}"


class Unimplemented(ProblemError):
    """The request needs a part of HTTP that the service does not have."""

    type = "/problems/not-implemented"
    status = HTTPStatus.NOT_IMPLEMENTED
    title = "Not implemented"
    detail = "The server supports neither CONNECT nor transfer codings other than chunked."
    advice = "Send the body with `Content-Length` or in the transfer coding chunked."


class Overloaded(ProblemError):
    """As many requests are being served as may be at once."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "The service is overloaded"
    detail = "Too many requests are being served. Nothing was done; try again shortly."
    advice = REPEAT
    headers_type = RetryAfterHeaders


class DatabaseUnavailable(ProblemError):
    """The database cannot be used, is overloaded or did not answer in time."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "The database is not available"
    detail = "Try again shortly. If this was a write, it may or may not have happened."
    advice = f"{REPEAT} {READ_FIRST}"
    headers_type = RetryAfterHeaders


class NotReady(ProblemError):
    """Readiness alone: requests cannot be served now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "The service is not ready"
    detail = "The database is not available or did not answer within one second."
    advice = "Send requests to another replica until this one is ready."
    headers_type = RetryAfterHeaders


class HTTPProblem(ProblemError):
    """What a component composed into the service refused with an HTTPException of its own.

    RFC 9457, section 4.2.1: no kind beyond the status code, whose phrase is the title.
    """

    type = "about:blank"
    headers_type = AuthenticateHeaders

    def __init__(self, exception: HTTPException) -> None:
        """Take over status, detail and header fields."""
        super().__init__(exception.detail[:MAX_DETAIL_LENGTH], headers=exception.headers or {})
        self.status = exception.status_code
        self.title = REASON_PHRASES.get(exception.status_code, "Refused")
