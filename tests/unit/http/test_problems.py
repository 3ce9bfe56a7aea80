"""Problem types, checked against the contract."""

from __future__ import annotations

import msgspec
import pytest
from litestar.exceptions import HTTPException, NotAuthorizedException, TooManyRequestsException

from app.http.problems import (
    MAX_ERRORS,
    PROBLEM_TYPES,
    DatabaseUnavailable,
    FieldError,
    HTTPProblem,
    IdempotencyKeyInUse,
    InvalidBody,
    InvalidParameter,
    MethodNotAllowed,
    NotReady,
    ProblemError,
)
from app.openapi.document import OpenAPIDocument

pytestmark = pytest.mark.requirement("FR-027")


def test_titles_are_unique() -> None:
    assert len({problem_type.title for problem_type in PROBLEM_TYPES}) == len(PROBLEM_TYPES)


def test_type_is_the_class_name_in_kebab_case() -> None:
    assert MethodNotAllowed.type == "/problems/method-not-allowed"


def test_contract_examples_match_the_problem_types(contract: OpenAPIDocument) -> None:
    examples = {
        (example["value"]["type"], example["value"]["title"], example["value"]["status"])
        for response in contract.document["components"]["responses"].values()
        for media in [response.get("content", {}).get("application/problem+json", {})]
        for example in media.get("examples", {}).values()
    }
    assert examples - {("about:blank", "Unauthorized", 401)} == {
        (problem_type.type, problem_type.title, int(problem_type.status))
        for problem_type in PROBLEM_TYPES
    }


DEFAULTS = {
    "malformed-request": (
        400,
        "Malformed request",
        "The request could not be parsed as HTTP/1.1.",
    ),
    "invalid-parameter": (
        400,
        "Invalid parameter",
        "One or more parameters or headers are invalid; see `errors`.",
    ),
    "invalid-cursor": (
        400,
        "Invalid cursor",
        "The cursor is invalid or belongs to a different query. Restart without `cursor`.",
    ),
    "invalid-token": (
        400,
        "Invalid token",
        "The token was not issued by this service for this user. Restart without `since`.",
    ),
    "malformed-body": (
        400,
        "Malformed request body",
        "The request body is not valid UTF-8 JSON.",
    ),
    "path-not-found": (
        404,
        "Not found",
        "No resource exists at this path.",
    ),
    "task-not-found": (
        404,
        "Task not found",
        "This user has no task with this ID.",
    ),
    "list-not-found": (
        404,
        "List not found",
        "This user has no list with this ID.",
    ),
    "method-not-allowed": (
        405,
        "Method not allowed",
        "This method is not supported here; see the `Allow` header.",
    ),
    "idempotency-key-in-use": (
        409,
        "Idempotency key in use",
        "Another request with this `Idempotency-Key` is in progress. Retry later.",
    ),
    "reference-not-found": (
        409,
        "Reference not found",
        "The request body refers to a resource or time zone that does not exist; see `errors`.",
    ),
    "hierarchy-conflict": (
        409,
        "Hierarchy conflict",
        "The change breaks a rule of subtasks. Nothing was changed.",
    ),
    "batch-conflict": (
        409,
        "Batch conflict",
        "The batch breaks a rule of batches. Nothing was changed.",
    ),
    "list-not-empty": (
        409,
        "List not empty",
        "The list contains tasks. Move or delete them first.",
    ),
    "token-expired": (
        410,
        "Token expired",
        "Changes since this token are no longer known. Restart without `since`.",
    ),
    "precondition-failed": (
        412,
        "Precondition failed",
        (
            "If-Match is not satisfied: the resource has a different ETag or does not exist. "
            "Nothing was changed."
        ),
    ),
    "content-too-large": (
        413,
        "Content too large",
        "The request body exceeds 131072 bytes.",
    ),
    "unsupported-media-type": (
        415,
        "Unsupported media type",
        "Send the body as application/json.",
    ),
    "invalid-body": (
        422,
        "Invalid request body",
        "The request body failed validation; see `errors`.",
    ),
    "idempotency-key-reused": (
        422,
        "Idempotency key reused",
        "This `Idempotency-Key` was already used with a different request body.",
    ),
    "header-fields-too-large": (
        431,
        "Request headers too large",
        "The request line and headers exceed 32768 bytes.",
    ),
    "internal-error": (
        500,
        "Internal server error",
        "An unexpected error occurred; it was logged with this request ID.",
    ),
    "not-implemented": (
        501,
        "Not implemented",
        "The server supports neither CONNECT nor transfer codings other than chunked.",
    ),
    "request-timeout": (
        408,
        "Request timeout",
        "The request was not received completely in time. Nothing was changed.",
    ),
    "overloaded": (
        503,
        "Service overloaded",
        (
            "Too many concurrent requests. Nothing was changed. "
            "Retry after the number of seconds in `Retry-After`."
        ),
    ),
    "database-unavailable": (
        503,
        "Database unavailable",
        (
            "The database is unavailable or did not respond in time. "
            "If this was a write, it may or may not have been applied."
        ),
    ),
    "not-ready": (
        503,
        "Service not ready",
        "The database is unavailable or did not respond within 1 second.",
    ),
}


def test_default_status_title_and_detail() -> None:
    bodies = [problem_type().to_problem("request-1") for problem_type in PROBLEM_TYPES]
    defaults = {
        body.type.removeprefix("/problems/"): (body.status, body.title, body.detail)
        for body in bodies
    }
    assert defaults == DEFAULTS


@pytest.mark.parametrize(
    "problem_type", PROBLEM_TYPES, ids=lambda problem_type: problem_type.__name__
)
def test_problem_matches_the_contract_schema(
    problem_type: type[ProblemError], contract: OpenAPIDocument
) -> None:
    body = msgspec.to_builtins(problem_type().to_problem("request-1"))
    assert contract.validate("Problem", body) == []
    assert not body["errors"]
    assert body["instance"] == "request-1"


@pytest.mark.parametrize(
    "problem_type", PROBLEM_TYPES, ids=lambda problem_type: problem_type.__name__
)
def test_retry_after_is_sent_if_a_retry_may_succeed(
    problem_type: type[ProblemError],
) -> None:
    # A repeated request with an unknown reference fails again.
    is_temporary = problem_type.status == 503 or problem_type is IdempotencyKeyInUse
    expected = {"Retry-After": "1"} if is_temporary else {}
    assert dict(problem_type().headers) == expected


def test_both_database_problems_send_retry_after() -> None:
    assert DatabaseUnavailable().headers == NotReady().headers != {}


def test_problem_may_have_its_own_detail_and_headers() -> None:
    problem = MethodNotAllowed("Not here.", headers={"Allow": "GET"})
    assert (problem.to_problem("r").detail, problem.headers) == ("Not here.", {"Allow": "GET"})
    assert MethodNotAllowed().to_problem("r").detail == MethodNotAllowed.detail


def test_string_form_is_the_detail() -> None:
    assert str(MethodNotAllowed("Not here.")) == "Not here."
    assert str(MethodNotAllowed()) == MethodNotAllowed.detail


def test_instance_does_not_change_its_problem_type() -> None:
    before = (InvalidParameter().to_problem("r"), InvalidParameter().headers)
    InvalidParameter(
        "Other words.", headers={"X": "1"}, errors=[FieldError(parameter="a", detail="b")]
    )
    assert (InvalidParameter().to_problem("r"), InvalidParameter().headers) == before


@pytest.mark.requirement("FR-026")
def test_errors_are_truncated_to_the_contract_limit(contract: OpenAPIDocument) -> None:
    errors = [FieldError(pointer=f"/{number}", detail="is wrong") for number in range(150)]
    body = InvalidBody(errors=errors).to_problem("request-1")
    assert list(body.errors) == errors[:MAX_ERRORS]
    schema = contract.document["components"]["schemas"]["Problem"]["properties"]["errors"]
    assert schema["maxItems"] == MAX_ERRORS


@pytest.mark.requirement("FR-042")
def test_http_exception_has_no_problem_type() -> None:
    exception = NotAuthorizedException("Sign in first.", headers={"WWW-Authenticate": "Bearer"})
    problem = HTTPProblem(exception)
    body = problem.to_problem("r")
    assert (body.type, body.status, body.title) == ("about:blank", 401, "Unauthorized")
    assert body.detail == "Sign in first."
    assert problem.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.requirement("FR-042")
def test_http_exception_without_headers_has_none() -> None:
    assert HTTPProblem(TooManyRequestsException("Slowly.")).headers == {}


@pytest.mark.requirement("FR-042")
@pytest.mark.parametrize("status", [499, 420])
def test_status_without_a_registered_phrase_is_a_problem(
    status: int, contract: OpenAPIDocument
) -> None:
    problem = HTTPProblem(HTTPException("Refused.", status_code=status))
    body = msgspec.to_builtins(problem.to_problem("r"))
    assert (body["status"], body["title"]) == (status, "Error")
    assert contract.validate("Problem", body) == []


@pytest.mark.requirement("FR-042")
def test_long_detail_is_truncated_to_the_contract_limit(contract: OpenAPIDocument) -> None:
    body = msgspec.to_builtins(HTTPProblem(NotAuthorizedException("x" * 2000)).to_problem("r"))
    assert body["detail"] == "x" * 1024
    assert contract.validate("Problem", body) == []
