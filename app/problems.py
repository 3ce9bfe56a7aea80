"""The kinds of problem, and the one shape in which each reaches a client (RFC 9457).

A kind is a class: its name in kebab case is its `type`. The contract's table under "Errors"
and this module hold the same kinds; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from litestar.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
FAULTS_AT_MOST = 100
DETAIL_AT_MOST = 1024
PHRASES = {status.value: status.phrase for status in HTTPStatus}
RETRY_AFTER = MappingProxyType({"Retry-After": "1"})


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a request: component `Fault` of the contract."""

    pointer: str | None = None
    parameter: str | None = None
    detail: str


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error: component `Problem` of the contract."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: Sequence[Fault]


class Problem(Exception):  # noqa: N818 - RFC 9457's word, and the contract's
    """A request that is answered with an error."""

    type: str
    status: int
    title: str
    detail: str
    headers: Mapping[str, str] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
        cls.type = f"/problems/{slug}"

    def __init__(
        self,
        detail: str | None = None,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`detail` and `headers` stand in for the kind's own, for this occurrence."""
        self.occurrence = type(self).detail if detail is None else detail
        self.faults = faults[:FAULTS_AT_MOST]
        self.response_headers = type(self).headers if headers is None else headers
        super().__init__(self.occurrence)

    def body(self, request_id: str) -> ProblemBody:
        """The body that the request with this id gets."""
        return ProblemBody(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.occurrence,
            instance=request_id,
            errors=self.faults,
        )


class MalformedRequest(Problem):
    """What arrived is not HTTP."""

    status = HTTPStatus.BAD_REQUEST
    title = "The request is not HTTP"
    detail = "The request cannot be read as HTTP/1.1."


class InvalidParameter(Problem):
    """Parameters or header fields are malformed, unknown or repeated."""

    status = HTTPStatus.BAD_REQUEST
    title = "A parameter is not valid"
    detail = "A parameter or header field is not valid."


class InvalidCursor(Problem):
    """The cursor was not given out for this query."""

    status = HTTPStatus.BAD_REQUEST
    title = "The cursor is not valid here"
    detail = "Start again without a cursor."


class MalformedBody(Problem):
    """The body is not acceptable as JSON, whatever its schema."""

    status = HTTPStatus.BAD_REQUEST
    title = "The body is not acceptable JSON"
    detail = "The body is not JSON in UTF-8."


class PathNotFound(Problem):
    """The contract has no such path."""

    status = HTTPStatus.NOT_FOUND
    title = "There is no such path"
    detail = "No operation has this path."


class TaskNotFound(Problem):
    """The user in the path has no task with the id in the path."""

    status = HTTPStatus.NOT_FOUND
    title = "There is no such task"
    detail = "This user has no task with this id."


class MethodNotAllowed(Problem):
    """The path exists, but not with this method. The occurrence brings `Allow`."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    title = "The path does not have this method"
    detail = "The header field Allow lists the methods of this path."


class PreconditionFailed(Problem):
    """`If-Match` or `If-None-Match` does not hold."""

    status = HTTPStatus.PRECONDITION_FAILED
    title = "A precondition does not hold"
    detail = (
        "If-Match or If-None-Match does not hold for the task as it is now; nothing was written."
    )


class ContentTooLarge(Problem):
    """The body is over the contract's limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "The body is too large"
    detail = "A body has at most 131072 bytes."


class UnsupportedMediaType(Problem):
    """The body is not declared as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "The media type is not supported"
    detail = "Send the body as application/json."


class InvalidBody(Problem):
    """The body is JSON that breaks its schema."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "The body breaks its schema"
    detail = "The body has faults."


class HeaderFieldsTooLarge(Problem):
    """The request line and header fields are over the contract's limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "The header fields are too large"
    detail = "The request line and header fields have at most 32768 bytes."


class InternalError(Problem):
    """A fault of ours."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "The service failed"
    detail = "The fault was logged under this request's id."


class DatabaseUnavailable(Problem):
    """The database cannot be reached, is overloaded or did not answer in time."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "The database is not available"
    detail = "Try again shortly. If this was a write, it may or may not have happened."
    headers = RETRY_AFTER


class NotReady(Problem):
    """Readiness alone: requests cannot be served now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "The service is not ready"
    detail = "The database did not answer within one second."
    headers = RETRY_AFTER


KINDS: tuple[type[Problem], ...] = tuple(Problem.__subclasses__())


def refusal(exception: HTTPException) -> Problem:
    """The problem for an HTTPException that a composed component raised.

    RFC 9457, section 4.2.1: no kind beyond the status code, whose phrase is the title.
    """
    problem = Problem(exception.detail[:DETAIL_AT_MOST], headers=exception.headers or {})
    problem.type = "about:blank"
    problem.status = exception.status_code
    problem.title = PHRASES.get(exception.status_code, "Refused")
    return problem
