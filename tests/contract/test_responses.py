"""Every response that the contract documents is reached."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from app.asgi import create_app
from app.http.middleware import HTTPMiddleware
from app.settings import Secret, Settings
from tests.support.client import FOREIGN_TAG, ContractClient, tasks_of
from tests.support.contract_check import ContractCheck, ContractViolation
from tests.support.lifespan import running

TASKS = tasks_of("alice")
LISTS = "/api/v1/users/alice/lists"
STORED, UNKNOWN = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44", "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a45"
ONE = f"{TASKS}/{STORED}"
NONE = f"{TASKS}/{UNKNOWN}"
ONE_LIST = f"{LISTS}/{STORED}"
NAME = {"name": "Groceries"}
WHOLE = {"title": "Buy milk", "description": None, "completed": False}
PATCH = {"Content-Type": "application/merge-patch+json"}

# For each operation, a request that succeeds if the task ONE and the list ONE_LIST are stored.
PLAIN: dict[str, dict[str, Any]] = {
    "listTasks": {"method": "GET", "url": TASKS},
    "createTask": {"method": "POST", "url": TASKS, "json": {"title": "Buy milk"}},
    "getTask": {"method": "GET", "url": ONE},
    "replaceTask": {"method": "PUT", "url": ONE, "json": WHOLE},
    "updateTask": {"method": "PATCH", "url": ONE, "content": b"{}", "headers": PATCH},
    "deleteTask": {"method": "DELETE", "url": ONE},
    "listLists": {"method": "GET", "url": LISTS},
    "createList": {"method": "POST", "url": LISTS, "json": NAME},
    "getList": {"method": "GET", "url": ONE_LIST},
    "replaceList": {"method": "PUT", "url": ONE_LIST, "json": NAME},
    "updateList": {"method": "PATCH", "url": ONE_LIST, "content": b"{}", "headers": PATCH},
    "deleteList": {"method": "DELETE", "url": ONE_LIST},
    "moveList": {"method": "POST", "url": f"{ONE_LIST}/move", "json": {"after_id": None}},
    "getLiveness": {"method": "GET", "url": "/livez"},
    "getReadiness": {"method": "GET", "url": "/readyz"},
    "getContractYaml": {"method": "GET", "url": "/openapi.yaml"},
    "getContractJson": {"method": "GET", "url": "/openapi.json"},
}
# For each other status, the changes to the request.
CHANGED: dict[str, dict[str, Any]] = {
    "304": {"headers": {"If-None-Match": "*"}},
    "400": {"params": {"unknown": "1"}},
    "412": {"headers": {**PATCH, "If-Match": FOREIGN_TAG}},
    "413": {"content": b" " * 131_073, "headers": {"Content-Type": "application/json"}},
    "415": {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
    "422": {"content": b'{"x": 1}', "headers": {"Content-Type": "application/json"}},
}
CHANGED_FOR_ONE: dict[tuple[str, str], dict[str, Any]] = {
    ("replaceTask", "412"): {"headers": {"If-Match": FOREIGN_TAG}},
    ("replaceList", "412"): {"headers": {"If-Match": FOREIGN_TAG}},
    ("moveList", "412"): {"headers": {"If-Match": FOREIGN_TAG}},
}
NOWHERE = Settings(database_url=Secret("postgresql://nobody@127.0.0.1:1/nothing"))


def documented() -> list[tuple[str, str]]:
    """Return every operation with each documented status that an in-process client can cause.

    The server sends 408, and 503 under overload: see test_slow_clients.py and test_overload.py in
    tests/integration/http. 409 needs a concurrent request with the same key: see
    test_idempotency.py.
    """
    return [
        (operation["operationId"], status)
        for item in ContractCheck().document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
        for status in operation["responses"]
        if status not in {"408", "409", "default"}
        if (operation["tags"], status) != (["contract"], "503")
    ]


async def fail(_: ASGIConnection[Any, Any, Any, Any], __: BaseRouteHandler) -> None:
    """Fail, as a guard with a bug."""
    message = "a bug"
    raise RuntimeError(message)


@asynccontextmanager
async def serving(settings: Settings, status: str) -> AsyncGenerator[ContractClient]:
    """Yield a client of a service in the state that leads to this status."""
    guards = [fail] if status == "500" else []
    app: HTTPMiddleware = create_app(NOWHERE if status == "503" else settings, guards=guards)
    async with running(app), ContractClient(app) as client:
        yield client


@pytest.mark.requirement("NFR-003", "FR-027")
@pytest.mark.parametrize(("operation", "status"), documented())
async def test_documented_response_is_reached(
    client: ContractClient, settings: Settings, operation: str, status: str
) -> None:
    for url, body in ((ONE, WHOLE), (ONE_LIST, NAME)):
        (await client.put(url, json=body)).raise_for_status()
    changes = CHANGED_FOR_ONE.get((operation, status), CHANGED.get(status, {}))
    request = {**PLAIN[operation], **changes}
    request.pop("json" if "content" in changes else "", None)
    if status == "404" or (status == "201" and request["method"] == "PUT"):
        request["url"] = request["url"].replace(STORED, UNKNOWN)
    async with serving(settings, status) as other:
        response: httpx.Response = await other.request(**request)
    assert response.status_code == int(status)


@pytest.mark.requirement("NFR-003")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"status_code": 202}, "status 202"),
        ({"json": {"id": 1}}, "body"),
        ({"content_type": "text/plain"}, "media type"),
        ({"without": "etag"}, "ETag is missing"),
        ({"without": "x-request-id"}, "X-Request-ID is missing"),
        ({"extra": "x-powered-by"}, "undeclared"),
        ({"etag": "0123"}, "ETag:"),
    ],
)
async def test_a_wrong_response_is_caught(
    client: ContractClient, wrong: dict[str, Any], message: str
) -> None:
    await client.put(ONE, json=WHOLE)
    right = await client.put(ONE, json=WHOLE)
    headers = {
        name: value
        for name, value in right.headers.items()
        if name not in {wrong.get("without"), "content-length"}
    }
    headers |= {"content-type": wrong.get("content_type", "application/json")}
    headers |= {"etag": wrong["etag"]} if "etag" in wrong else {}
    headers |= {wrong["extra"]: "1"} if "extra" in wrong else {}
    response = httpx.Response(
        wrong.get("status_code", 200), headers=headers, json=wrong.get("json", right.json())
    )
    ContractCheck().check("PUT", ONE, httpx.Response(200, headers=right.headers, json=right.json()))
    with pytest.raises(ContractViolation, match=message):
        ContractCheck().check("PUT", ONE, response)


@pytest.mark.requirement("NFR-003", "FR-027")
async def test_a_kind_of_problem_that_the_operation_does_not_have_is_caught(
    client: ContractClient,
) -> None:
    right = await client.get(NONE)
    ContractCheck().check("GET", NONE, right)
    problem = {**right.json(), "type": "/problems/not-ready"}
    right.headers.pop("content-length")
    wrong = httpx.Response(404, headers=right.headers, json=problem)
    with pytest.raises(ContractViolation, match="type /problems/not-ready"):
        ContractCheck().check("GET", NONE, wrong)
