"""Plug-in guards, middleware and routes: the contract still applies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from litestar import MediaType, Request, Response, asgi, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import (
    ClientException,
    HTTPException,
    ImproperlyConfiguredException,
    NotAuthorizedException,
    NotFoundException,
    PermissionDeniedException,
)
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, ControllerRouterHandler, Message, Receive, Scope, Send

from app.asgi import create_app
from app.openapi import document as contract_module
from app.openapi.document import OPENAPI_PATH, OpenAPIDocument, RouteMismatchError
from app.settings import Settings
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.lifespan import running

ALICE = tasks_of("alice")
TASK = f"{ALICE}/0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
WHOLE = {"title": "Buy milk", "description": None, "completed": False}
TOKENS = {"Bearer a1": "alice", "Bearer b2": "bob"}
ALICE_HEADERS = {"Authorization": "Bearer a1"}
BOB_HEADERS = {"Authorization": "Bearer b2"}
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "listTasks": ("GET", ALICE, None),
    "createTask": ("POST", ALICE, {"title": "Buy milk"}),
    "getTask": ("GET", TASK, None),
    "replaceTask": ("PUT", TASK, WHOLE),
    "updateTask": ("PATCH", TASK, {"title": "Buy oat milk"}),
    "deleteTask": ("DELETE", TASK, None),
}


async def require_own_tasks(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    """A guard as in an authentication plug-in: it identifies and authorizes the caller."""
    user = connection.path_params.get("user_id")
    if user is None:
        return
    subject = TOKENS.get(connection.headers.get("authorization", ""))
    if subject is None:
        raise NotAuthorizedException("Send a bearer token.")
    if subject != user:
        raise PermissionDeniedException("These are another user's tasks.")


@asynccontextmanager
async def composed(settings: Settings, **parts: Any) -> AsyncIterator[ContractClient]:
    async with running(create_app(settings, **parts)) as app, ContractClient(app) as client:
        yield client


@pytest.fixture
async def guarded_client(
    settings: Settings, database: asyncpg.Connection
) -> AsyncIterator[ContractClient]:
    """A client of the application with the guard; Alice has one task."""
    async with composed(settings, guards=[require_own_tasks]) as client:
        response = await client.put(TASK, json=WHOLE, headers=ALICE_HEADERS)
        assert response.status_code == 201
        assert await database.fetchval("SELECT user_id FROM tasks") == "alice"
        yield client


async def ask(client: ContractClient, operation: str, **headers: str) -> httpx.Response:
    method, path, body = REQUESTS[operation]
    return await client.request(method, path, json=body, headers=headers)


# --- guards ------------------------------------------------------------------------------------


@pytest.mark.requirement("FR-042", "FR-020")
@pytest.mark.parametrize("operation", REQUESTS)
async def test_user_of_the_token_is_served(guarded_client: ContractClient, operation: str) -> None:
    assert (await ask(guarded_client, operation, **ALICE_HEADERS)).is_success


@pytest.mark.requirement("FR-042", "FR-020", "FR-027")
@pytest.mark.parametrize("operation", REQUESTS)
async def test_request_without_token_gets_a_problem(
    guarded_client: ContractClient, database: asyncpg.Connection, operation: str
) -> None:
    response = await ask(guarded_client, operation)
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Send a bearer token.",
        "instance": response.headers["x-request-id"],
        "trace_id": None,
        "errors": [],
    }
    assert response.headers["content-type"] == "application/problem+json"
    assert await database.fetchval("SELECT count(*) FROM tasks") == 1


@pytest.mark.requirement("FR-042", "FR-020", "FR-027")
@pytest.mark.parametrize("operation", REQUESTS)
async def test_tasks_of_another_user_get_a_problem(
    guarded_client: ContractClient, database: asyncpg.Connection, operation: str
) -> None:
    before = await database.fetch("SELECT * FROM tasks")
    response = await ask(guarded_client, operation, **BOB_HEADERS)
    assert response.json() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "These are another user's tasks.",
        "instance": response.headers["x-request-id"],
        "trace_id": None,
        "errors": [],
    }
    assert response.headers["content-type"] == "application/problem+json"
    assert await database.fetch("SELECT * FROM tasks") == before


@pytest.mark.requirement("FR-042", "FR-030")
async def test_head_is_rejected_like_get(guarded_client: ContractClient) -> None:
    assert (await guarded_client.head(TASK, headers=BOB_HEADERS)).status_code == 403


@pytest.mark.requirement("FR-042")
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.yaml", "/openapi.json"])
async def test_paths_without_a_user_are_public(guarded_client: ContractClient, path: str) -> None:
    assert (await guarded_client.get(path)).status_code == 200


@pytest.mark.requirement("FR-042", "FR-027")
async def test_headers_of_a_guard_rejection_are_kept(settings: Settings) -> None:
    async def challenge(*_: object) -> None:
        raise NotAuthorizedException(headers={"WWW-Authenticate": "Bearer"})

    app = create_app(settings, guards=[challenge])
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
        response = await client.get(ALICE)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["type"] == "about:blank"


@pytest.mark.requirement("FR-042", "FR-027")
@pytest.mark.parametrize(
    "exception",
    [NotFoundException("Not here."), ClientException("Not so.")],
    ids=lambda exception: type(exception).__name__,
)
async def test_guard_rejection_similar_to_the_router_is_kept(
    settings: Settings, exception: HTTPException
) -> None:
    def reject(*_: object) -> None:
        raise exception

    async with composed(settings, guards=[reject]) as client:
        response = await client.get(ALICE)
    assert response.status_code == exception.status_code
    problem = response.json()
    assert (problem["type"], problem["detail"]) == ("about:blank", exception.detail)


@pytest.mark.requirement("FR-042", "FR-028", "FR-036")
async def test_failing_plugin_is_500_without_its_message(settings: Settings) -> None:
    def fail(*_: object) -> None:
        raise HTTPException("private words", status_code=502)

    async with composed(settings, guards=[fail]) as client:
        response = await client.get(ALICE)
    assert_problem(response, 500, "internal-error")
    assert "private" not in response.text


# --- middleware and route handlers -------------------------------------------------------------


def admit_only_bob(app: ASGIApp) -> ASGIApp:
    """Middleware that rejects requests without the token of Bob."""

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if (b"authorization", b"Bearer b2") not in scope["headers"]:
            raise PermissionDeniedException("Only Bob.")
        await app(scope, receive, send)

    return check


def record_statuses(counts: list[object]) -> Callable[[ASGIApp], ASGIApp]:
    """Middleware that records the statuses of responses."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def watch(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_record(message: Message) -> None:
                counts.extend(value for key, value in message.items() if key == "status")
                await send(message)

            await app(scope, receive, send_and_record)

        return watch

    return wrap


@pytest.mark.requirement("FR-042")
async def test_middleware_sees_requests_and_responses(settings: Settings) -> None:
    counts: list[object] = []
    async with composed(settings, middleware=[record_statuses(counts)]) as client:
        await client.get(ALICE)
        await client.get(TASK)
    assert counts == [200, 404]


@pytest.mark.requirement("FR-042", "FR-027")
async def test_middleware_rejection_is_a_problem(settings: Settings) -> None:
    async with composed(settings, middleware=[admit_only_bob]) as client:
        response = await client.get(ALICE, headers=ALICE_HEADERS)
        served = await client.get(ALICE, headers=BOB_HEADERS)
    assert_plugin_problem(response, 403, "Only Bob.")
    assert served.status_code == 200


def assert_plugin_problem(response: httpx.Response, status: int, detail: str) -> None:
    assert response.status_code == status
    assert response.json()["type"] == "about:blank"
    assert response.json()["detail"] == detail


@get("/whoami", media_type=MediaType.TEXT)
async def whoami(request: Request[Any, Any, Any]) -> str:
    """A plug-in route."""
    return TOKENS[request.headers["authorization"]]


@pytest.fixture
async def client_with_route(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with a plug-in route that is not in the contract."""
    async with running(create_app(settings, route_handlers=[whoami])) as app:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
        async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
            yield client


@pytest.mark.requirement("FR-042", "FR-029")
async def test_plugin_route_has_the_common_headers(
    client_with_route: httpx.AsyncClient,
) -> None:
    response = await client_with_route.get(
        "/whoami", headers={**ALICE_HEADERS, "X-Request-ID": "mine"}
    )
    assert (response.status_code, response.text) == (200, "alice")
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"


@pytest.mark.requirement("FR-042", "FR-030")
async def test_plugin_route_supports_head_options_and_405(
    client_with_route: httpx.AsyncClient,
) -> None:
    assert (await client_with_route.head("/whoami", headers=ALICE_HEADERS)).content == b""
    options = await client_with_route.options("/whoami")
    response = await client_with_route.post("/whoami")
    assert (options.status_code, response.status_code) == (204, 405)
    assert options.headers["allow"] == response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.requirement("FR-042", "FR-036")
async def test_error_in_a_plugin_route_is_a_problem(client_with_route: httpx.AsyncClient) -> None:
    response = await client_with_route.get("/whoami", headers={"Authorization": "unknown"})
    assert_problem(response, 500, "internal-error")


@get("/api/v1/users/{user_id:str}/tasks", operation_id="listTasks")
async def route_on_a_contract_path() -> None: ...


@get("/api/v1/users/{name:str}/tasks", operation_id="other")
async def route_with_another_parameter_name() -> None: ...


@post("/livez", operation_id="createTask")
async def other_method_on_a_contract_path() -> None: ...


@pytest.mark.requirement("FR-042", "FR-043")
@pytest.mark.parametrize(
    "handler",
    [route_on_a_contract_path, route_with_another_parameter_name, other_method_on_a_contract_path],
    ids=["the same", "another parameter", "another method"],
)
def test_plugin_route_on_a_contract_path_stops_startup(
    settings: Settings, handler: ControllerRouterHandler
) -> None:
    with pytest.raises((RouteMismatchError, ImproperlyConfiguredException), match=r"/tasks|/livez"):
        create_app(settings, route_handlers=[handler])


@pytest.mark.requirement("FR-042", "FR-043")
def test_all_conflicting_routes_are_reported(settings: Settings) -> None:
    with pytest.raises(RouteMismatchError) as raised:
        create_app(
            settings,
            route_handlers=[route_with_another_parameter_name, other_method_on_a_contract_path],
        )
    assert str(raised.value).splitlines() == [
        "GET /api/v1/users/{name}/tasks (other) conflicts with a path of the contract",
        "POST /livez (createTask) conflicts with a path of the contract",
    ]


# --- routes are checked against the contract ---------------------------------------------------


def renamed_path(paths: dict[str, Any]) -> None:
    paths["/alive"] = paths.pop("/livez")


def removed_path(paths: dict[str, Any]) -> None:
    del paths["/livez"]


def added_path(paths: dict[str, Any]) -> None:
    paths["/alive"] = {"get": {"operationId": "isAlive"}}


def other_method(paths: dict[str, Any]) -> None:
    paths["/livez"]["post"] = paths["/livez"].pop("get")


def removed_method(paths: dict[str, Any]) -> None:
    del paths["/api/v1/users/{user_id}/tasks/{task_id}"]["delete"]


def renamed_operation(paths: dict[str, Any]) -> None:
    paths["/livez"]["get"]["operationId"] = "isAlive"


def renamed_parameter(paths: dict[str, Any]) -> None:
    paths["/api/v1/users/{user}/tasks"] = paths.pop("/api/v1/users/{user_id}/tasks")


EXTRA_IN_CODE = "is only in the code"
EXTRA_IN_CONTRACT = "is only in the contract"
LIVENESS = f"GET /livez (getLiveness) {EXTRA_IN_CODE}"


@pytest.mark.requirement("FR-043")
@pytest.mark.parametrize(
    ("edit", "differences"),
    [
        (renamed_path, [f"GET /alive (getLiveness) {EXTRA_IN_CONTRACT}", LIVENESS]),
        (removed_path, [LIVENESS]),
        (added_path, [f"GET /alive (isAlive) {EXTRA_IN_CONTRACT}"]),
        (other_method, [f"POST /livez (getLiveness) {EXTRA_IN_CONTRACT}", LIVENESS]),
        (
            removed_method,
            [f"DELETE /api/v1/users/{{user_id}}/tasks/{{task_id}} (deleteTask) {EXTRA_IN_CODE}"],
        ),
        (renamed_operation, [f"GET /livez (isAlive) {EXTRA_IN_CONTRACT}", LIVENESS]),
        (
            renamed_parameter,
            [
                f"GET /api/v1/users/{{user}}/tasks (listTasks) {EXTRA_IN_CONTRACT}",
                f"POST /api/v1/users/{{user}}/tasks (createTask) {EXTRA_IN_CONTRACT}",
                f"GET /api/v1/users/{{user_id}}/tasks (listTasks) {EXTRA_IN_CODE}",
                f"POST /api/v1/users/{{user_id}}/tasks (createTask) {EXTRA_IN_CODE}",
            ],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_routes_that_differ_from_the_contract_stop_startup(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[dict[str, Any]], None],
    differences: list[str],
) -> None:
    document = yaml.safe_load(OPENAPI_PATH.read_text("utf-8"))
    edit(document["paths"])
    other = OpenAPIDocument(yaml.safe_dump(document).encode())
    monkeypatch.setattr(contract_module.OpenAPIDocument, "load", lambda: other)
    with pytest.raises(RouteMismatchError) as caught:
        create_app(settings)
    assert str(caught.value).splitlines() == differences


@pytest.mark.requirement("FR-043")
def test_routes_equal_to_the_contract_start(settings: Settings, contract: OpenAPIDocument) -> None:
    assert len(contract.operations()) == 24
    create_app(settings)


@asgi("/stream", copy_scope=True)
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """A plain ASGI application."""
    await Response("streamed", media_type=MediaType.TEXT).to_asgi_response(
        app=None, request=Request(scope)
    )(scope, receive, send)


@pytest.mark.requirement("FR-042")
async def test_asgi_application_can_be_mounted(settings: Settings) -> None:
    async with running(create_app(settings, route_handlers=[stream])) as app:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # httpx declares ASGI differently
        async with httpx.AsyncClient(transport=transport, base_url="http://tasks.test") as client:
            assert (await client.get("/stream")).text == "streamed"
