"""Handlers receive what their signatures name, and raise what they declare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from litestar import Controller, Litestar, Request, get, post, put
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException
from msgspec import Meta
from structlog.testing import capture_logs

from app.domain.tasks.problems import TaskNotFound
from app.http.body import JSON, MERGE_PATCH
from app.http.cors import CORSPolicy
from app.http.exception_handlers import EXCEPTION_HANDLERS
from app.http.middleware import HTTPMiddleware
from app.http.operation import (
    ANY_BODY,
    ANY_OPERATION,
    Operation,
    SignatureError,
    UndeclaredProblemError,
    operation,
)
from app.http.parameters import NoParameters
from app.http.problems import (
    InvalidBody,
    InvalidCursor,
    InvalidParameter,
    PreconditionFailed,
    ProblemError,
)
from tests.support.client import assert_problem

pytestmark = pytest.mark.requirement("NFR-007")


class NotePath(msgspec.Struct, frozen=True):
    note: Annotated[int, Meta(ge=1)]


class NoteQuery(msgspec.Struct, frozen=True):
    limit: int = 10


class NoteHeaders(msgspec.Struct, frozen=True):
    tag: Annotated[str, Meta(max_length=3)] | None = msgspec.field(name="X-Tag", default=None)


class Note(msgspec.Struct, frozen=True):
    text: str


class NotesState(msgspec.Struct, frozen=True):
    """A state of an application with notes."""

    name: str


Echo = dict[str, Any]


class NoteController(Controller):
    path = "/notes/{note:str}"

    @put()
    @operation()
    async def replace_note(
        self,
        data: Note,
        headers: NoteHeaders,
        query: NoteQuery,
        path: NotePath,
        state: NotesState,
    ) -> Echo:
        """Echo every part of the request."""
        assert type(self) is NoteController
        return {
            "state": state.name,
            "note": path.note,
            "limit": query.limit,
            "tag": headers.tag,
            "text": data.text,
        }


@get("/state", operation_id="getState")
@operation()
async def get_state(state: NotesState) -> str:
    return state.name


@get("/nothing")
@operation()
async def get_nothing() -> None:
    pass


@post("/patch", status_code=200)
@operation()
async def patch_note(data: Annotated[Note, MERGE_PATCH, JSON]) -> Note:
    return data


async def failing(query: NoteQuery) -> None:
    """Raise the problem at this index."""
    problems = [TaskNotFound, PreconditionFailed, InvalidParameter, InvalidBody]
    raise problems[query.limit]


@get("/not-authorized")
@operation()
async def get_without_authorization() -> None:
    raise NotAuthorizedException


LITESTAR = Litestar(
    route_handlers=[
        NoteController,
        get_state,
        get_nothing,
        patch_note,
        get("/failing")(operation(raises=[TaskNotFound])(failing)),
        get_without_authorization,
    ],
    exception_handlers=EXCEPTION_HANDLERS,
    state=State({"app_state": NotesState("notes")}),
    openapi_config=None,
    logging_config=None,
)
APP = HTTPMiddleware(LITESTAR, LITESTAR.routes, CORSPolicy(()))


async def send(method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request to the application."""
    transport = httpx.ASGITransport(app=APP)  # type: ignore[arg-type]  # two spellings of ASGI
    async with httpx.AsyncClient(transport=transport, base_url="http://notes.test") as client:
        return await client.request(method, path, **options)


# --- binding -------------------------------------------------------------------------------------


async def test_method_receives_every_part_in_the_order_of_its_signature() -> None:
    response = await send(
        "PUT", "/notes/7?limit=3", headers={"X-Tag": "abc"}, json={"text": "Buy milk"}
    )
    assert response.json() == {
        "state": "notes",
        "note": 7,
        "limit": 3,
        "tag": "abc",
        "text": "Buy milk",
    }


async def test_function_receives_one_part() -> None:
    assert (await send("GET", "/state")).text == "notes"


async def test_function_without_parts_receives_nothing() -> None:
    assert (await send("GET", "/nothing")).status_code == 200


async def test_errors_of_all_locations_are_reported_together_before_the_body() -> None:
    response = await send(
        "PUT", "/notes/0?limit=x", headers={"X-Tag": "abcd"}, content=b"no JSON at all"
    )
    assert_problem(response, 400, "invalid-parameter", "note", "limit", "X-Tag")


@pytest.mark.parametrize("path", ["/state", "/nothing"])
async def test_query_is_rejected_if_the_signature_has_none(path: str) -> None:
    response = await send("GET", f"{path}?limit=1")
    assert_problem(response, 400, "invalid-parameter", "limit")


async def test_body_without_media_types_is_json() -> None:
    headers = {"Content-Type": MERGE_PATCH}
    response = await send("PUT", "/notes/7", headers=headers, content=b'{"text":""}')
    assert_problem(response, 415, "unsupported-media-type", "Content-Type")


@pytest.mark.parametrize("media_type", [MERGE_PATCH, JSON])
async def test_annotation_lists_media_types(media_type: str) -> None:
    headers = {"Content-Type": media_type}
    response = await send("POST", "/patch", headers=headers, content=b'{"text":"a"}')
    assert response.json() == {"text": "a"}


async def test_media_type_outside_the_annotation_is_rejected() -> None:
    response = await send("POST", "/patch", headers={"Content-Type": "text/plain"}, content=b"{}")
    problem = assert_problem(response, 415, "unsupported-media-type", "Content-Type")
    assert problem["errors"][0]["detail"] == f"must be {MERGE_PATCH} or {JSON}"


# --- the operation of a handler ------------------------------------------------------------------


def test_operation_describes_the_signature() -> None:
    function: Any = vars(NoteController)["replace_note"].fn
    bound: Operation = function.operation
    assert bound.is_method
    assert bound.arguments == ["data", "headers", "query", "path", "state"]
    assert bound.parameters.path.struct is NotePath
    assert bound.parameters.query.struct is NoteQuery
    assert bound.parameters.headers.struct is NoteHeaders
    assert bound.body is not None
    assert (bound.body.struct, bound.body.media_types) == (Note, (JSON,))
    assert bound.returns == Echo
    assert bound.raises == (*ANY_OPERATION, *ANY_BODY)


def test_operation_without_parts_has_no_parameters_and_no_body() -> None:
    bound = Operation(failing, [TaskNotFound])
    assert (bound.is_method, bound.body) == (False, None)
    assert bound.parameters.path.struct is NoParameters
    assert bound.parameters.headers.struct is NoParameters
    assert bound.raises == (*ANY_OPERATION, TaskNotFound)


def test_litestar_sees_only_the_request() -> None:
    (handler,) = (
        handler
        for route in LITESTAR.routes
        if route.path == "/state"
        for handler in getattr(route, "route_handlers", [])
        if handler.operation_id
    )
    signature = handler.parsed_fn_signature
    assert list(signature.parameters) == ["request"]
    assert signature.parameters["request"].annotation == Request[Any, Any, Any]
    assert signature.return_type.annotation is str
    assert (handler.fn.__name__, handler.fn.__doc__) == ("get_state", None)


# --- signatures that cannot be bound -------------------------------------------------------------


async def no_annotation(path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Is never called."""


async def no_return_annotation(path: NotePath):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Is never called."""


async def unknown_part(path: NotePath, cookies: NoteHeaders) -> None:
    """Is never called."""


async def no_struct(path: str) -> None:
    """Is never called."""


async def no_struct_as_body(data: Annotated[dict[str, Any], JSON]) -> None:
    """Is never called."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_annotation, "no_annotation: path has no annotation."),
        (no_return_annotation, "no_return_annotation: return has no annotation."),
        (
            unknown_part,
            "unknown_part: cookies is none of state, path, query, headers, data, connection.",
        ),
        (no_struct, "no_struct: path is not a msgspec.Struct."),
        (no_struct_as_body, "no_struct_as_body: data is not a msgspec.Struct."),
    ],
)
def test_signature_that_cannot_be_bound_is_an_error_at_import(
    function: Callable[..., Awaitable[Any]], message: str
) -> None:
    with pytest.raises(SignatureError) as raised:
        operation()(function)
    assert str(raised.value) == message


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "status", "slug"), [(0, 404, "task-not-found"), (2, 400, "invalid-parameter")]
)
async def test_declared_problem_is_the_response(index: int, status: int, slug: str) -> None:
    assert_problem(await send("GET", f"/failing?limit={index}"), status, slug)


@pytest.mark.parametrize(("index", "kind"), [(1, PreconditionFailed), (3, InvalidBody)])
async def test_undeclared_problem_is_an_internal_error(
    index: int, kind: type[ProblemError]
) -> None:
    with capture_logs() as lines:
        response = await send("GET", f"/failing?limit={index}")
    assert_problem(response, 500, "internal-error")
    (error,) = (line["exc_info"] for line in lines if line["log_level"] == "error")
    assert isinstance(error, UndeclaredProblemError)
    assert str(error) == (
        f"undeclared problem: failing raised {kind.__name__}, which is not in its raises"
    )
    assert isinstance(error.__cause__, kind)


async def test_subclass_of_a_declared_problem_is_undeclared() -> None:
    class Gone(InvalidCursor):
        """A type of its own, which is not part of the contract."""

        type = "about:blank"

    async def raising() -> None:
        raise Gone

    scope: Any = {
        "type": "http",
        "path_params": {},
        "query_string": b"",
        "headers": [],
        "litestar_app": LITESTAR,
    }
    with pytest.raises(UndeclaredProblemError):
        await operation(raises=[InvalidCursor])(raising)(request=Request(scope))


async def test_exception_of_the_framework_is_not_a_problem_of_the_handler() -> None:
    response = await send("GET", "/not-authorized")
    assert (response.status_code, response.json()["type"]) == (401, "about:blank")
