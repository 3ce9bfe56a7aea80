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
        "The request is not HTTP",
        "The request cannot be read as HTTP/1.1.",
    ),
    "invalid-parameter": (
        400,
        "A parameter is not valid",
        "A parameter or header field is not valid.",
    ),
    "invalid-cursor": (
        400,
        "The cursor is not valid here",
        "Start again without a cursor.",
    ),
    "malformed-body": (
        400,
        "The body is not acceptable JSON",
        "The body is not JSON in UTF-8.",
    ),
    "path-not-found": (
        404,
        "There is no such path",
        "No operation has this path.",
    ),
    "task-not-found": (
        404,
        "There is no such task",
        "This user has no task with this id.",
    ),
    "method-not-allowed": (
        405,
        "The path does not have this method",
        "The header field Allow lists the methods of this path.",
    ),
    "idempotency-key-in-use": (
        409,
        "The idempotency key is in use",
        "A request with this Idempotency-Key is being served; this one did nothing.",
    ),
    "precondition-failed": (
        412,
        "A precondition does not hold",
        "If-Match or If-None-Match does not hold for the task as it is now; nothing was written.",
    ),
    "content-too-large": (
        413,
        "The body is too large",
        "A body has at most 131072 bytes.",
    ),
    "unsupported-media-type": (
        415,
        "The media type is not supported",
        "Send the body as application/json.",
    ),
    "invalid-body": (
        422,
        "The body breaks its schema",
        "The body has faults.",
    ),
    "idempotency-key-reused": (
        422,
        "The idempotency key was used before",
        "This Idempotency-Key was sent with another body before; nothing was written.",
    ),
    "header-fields-too-large": (
        431,
        "The header fields are too large",
        "The request line and header fields have at most 32768 bytes.",
    ),
    "internal-error": (
        500,
        "The service failed",
        "The fault was logged under this request's id.",
    ),
    "not-implemented": (
        501,
        "Not implemented",
        "The server supports neither CONNECT nor transfer codings other than chunked.",
    ),
    "request-timeout": (
        408,
        "The request did not arrive in time",
        "The rest of the request did not arrive in time. Nothing was written.",
    ),
    "overloaded": (
        503,
        "The service is overloaded",
        "Too many requests are being served. Nothing was done; try again shortly.",
    ),
    "database-unavailable": (
        503,
        "The database is not available",
        "Try again shortly. If this was a write, it may or may not have happened.",
    ),
    "not-ready": (
        503,
        "The service is not ready",
        "The database is not available or did not answer within one second.",
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
def test_retry_after_is_sent_for_409_and_503(
    problem_type: type[ProblemError],
) -> None:
    expected = {"Retry-After": "1"} if problem_type.status in {409, 503} else {}
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
    assert (body["status"], body["title"]) == (status, "Refused")
    assert contract.validate("Problem", body) == []


@pytest.mark.requirement("FR-042")
def test_long_detail_is_truncated_to_the_contract_limit(contract: OpenAPIDocument) -> None:
    body = msgspec.to_builtins(HTTPProblem(NotAuthorizedException("x" * 2000)).to_problem("r"))
    assert body["detail"] == "x" * 1024
    assert contract.validate("Problem", body) == []
