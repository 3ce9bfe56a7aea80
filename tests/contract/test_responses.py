"""Every response that the contract documents is reached."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from app.asgi import create_app
from app.domain.changes.tokens import ChangeTokenCodec, FeedPosition
from app.domain.users import repository as users
from app.http.middleware import HTTPMiddleware
from app.settings import Secret, Settings
from tests.support.client import FOREIGN_TAG, ContractClient, tasks_of
from tests.support.contract_check import ContractCheck, ContractViolation
from tests.support.lifespan import running

TASKS = tasks_of("alice")
LISTS = "/api/v1/users/alice/lists"
# A stored task has this ID, and so has an empty list.
ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44"
UNKNOWN_ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a45"
SUBTASK_ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a46"
LIST_WITH_TASK_ID = "0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a47"
ONE = f"{TASKS}/{ID}"
NONE = f"{TASKS}/{UNKNOWN_ID}"
ONE_LIST = f"{LISTS}/{ID}"
WHOLE = {"title": "Buy milk", "description": None, "completed": False}
NAME = {"name": "Groceries"}
FIRST = {"after_id": None}
PATCH = {"Content-Type": "application/merge-patch+json"}
USED_KEY = {"Idempotency-Key": "used"}

# For each operation, a request that succeeds after STORED.
PLAIN: dict[str, dict[str, Any]] = {
    "listTasks": {"method": "GET", "url": TASKS},
    "createTask": {"method": "POST", "url": TASKS, "json": {"title": "Buy milk"}},
    "getTask": {"method": "GET", "url": ONE},
    "replaceTask": {"method": "PUT", "url": ONE, "json": WHOLE},
    "updateTask": {"method": "PATCH", "url": ONE, "json": {}, "headers": PATCH},
    "deleteTask": {"method": "DELETE", "url": ONE},
    "changeTasks": {
        "method": "POST",
        "url": f"{TASKS}/batch",
        "json": {"update": [{"id": ID, "title": "a"}]},
    },
    "countTasks": {"method": "GET", "url": f"{TASKS}/count"},
    "moveTask": {"method": "POST", "url": f"{ONE}/move", "json": FIRST},
    "listLabels": {"method": "GET", "url": "/api/v1/users/alice/labels"},
    "listLists": {"method": "GET", "url": LISTS},
    "listChanges": {"method": "GET", "url": "/api/v1/users/alice/changes"},
    "exportUser": {"method": "GET", "url": "/api/v1/users/alice/export"},
    "deleteUser": {"method": "DELETE", "url": "/api/v1/users/alice"},
    "createList": {"method": "POST", "url": LISTS, "json": NAME},
    "getList": {"method": "GET", "url": ONE_LIST},
    "replaceList": {"method": "PUT", "url": ONE_LIST, "json": NAME},
    "updateList": {"method": "PATCH", "url": ONE_LIST, "json": {}, "headers": PATCH},
    "deleteList": {"method": "DELETE", "url": ONE_LIST},
    "moveList": {"method": "POST", "url": f"{ONE_LIST}/move", "json": FIRST},
    "getLiveness": {"method": "GET", "url": "/livez"},
    "getReadiness": {"method": "GET", "url": "/readyz"},
    "getContractYaml": {"method": "GET", "url": "/openapi.yaml"},
    "getContractJson": {"method": "GET", "url": "/openapi.json"},
}
STORED: list[dict[str, Any]] = [
    {"method": "PUT", "url": ONE_LIST, "json": NAME},
    {"method": "PUT", "url": f"{LISTS}/{LIST_WITH_TASK_ID}", "json": NAME},
    {"method": "PUT", "url": ONE, "json": {**WHOLE, "list_id": LIST_WITH_TASK_ID}},
    {"method": "PUT", "url": f"{TASKS}/{SUBTASK_ID}", "json": {**WHOLE, "parent_id": ID}},
    {"method": "POST", "url": TASKS, "json": {"title": "Call"}, "headers": USED_KEY},
]
# A token of an epoch that no user has.
EXPIRED_TOKEN = ChangeTokenCodec(None).encode("alice", FeedPosition.end(UUID(int=1), 1))
# For each other status or type of problem, the changes to the request: another ID in its path, and
# more headers and properties.
CHANGED: dict[str, dict[str, Any]] = {
    "304": {"headers": {"If-None-Match": "*"}},
    "invalid-parameter": {"params": {"unknown": "1"}},
    "invalid-cursor": {"params": {"cursor": "A" * 56}},
    "invalid-token": {"params": {"since": "A" * 88}},
    "token-expired": {"params": {"since": EXPIRED_TOKEN}},
    "malformed-body": {"content": b"{", "headers": {"Content-Type": "application/json"}},
    "task-not-found": {"id": UNKNOWN_ID},
    "list-not-found": {"id": UNKNOWN_ID},
    "hierarchy-conflict": {"json": {"parent_id": SUBTASK_ID}},
    "reference-not-found": {"json": {"list_id": UNKNOWN_ID}},
    "list-not-empty": {"id": LIST_WITH_TASK_ID},
    "precondition-failed": {"headers": {"If-Match": FOREIGN_TAG}},
    "content-too-large": {"json": {"x": "1" * 131_072}},
    "unsupported-media-type": {"headers": {"Content-Type": "text/plain"}},
    "invalid-body": {"json": {"x": 1}},
    "idempotency-key-reused": {"headers": USED_KEY},
}
CHANGED_FOR_ONE: dict[tuple[str, str], dict[str, Any]] = {
    ("replaceTask", "201"): {"id": UNKNOWN_ID},
    ("replaceTask", "precondition-failed"): {"headers": {"If-Match": "*"}, "id": UNKNOWN_ID},
    ("replaceList", "201"): {"id": UNKNOWN_ID},
    ("replaceList", "precondition-failed"): {"headers": {"If-Match": "*"}, "id": UNKNOWN_ID},
    ("moveList", "reference-not-found"): {"json": {"after_id": UNKNOWN_ID}},
    ("changeTasks", "batch-conflict"): {"json": {"update": []}},
    ("changeTasks", "task-not-found"): {"json": {"update": [{"id": UNKNOWN_ID}]}},
    ("changeTasks", "reference-not-found"): {
        "json": {"update": [{"id": ID, "list_id": UNKNOWN_ID}]}
    },
    ("changeTasks", "hierarchy-conflict"): {
        "json": {"update": [{"id": ID, "list_id": None, "parent_id": SUBTASK_ID}]}
    },
    ("changeTasks", "precondition-failed"): {
        "json": {"update": [{"id": ID, "if_match": FOREIGN_TAG}]}
    },
    ("changeTasks", "content-too-large"): {"json": {"x": "1" * 1_048_576}},
}
NOWHERE = Settings(database_url=Secret("postgresql://nobody@127.0.0.1:1/nothing"))
# The server sends the first two: see test_slow_clients.py and test_overload.py in
# tests/integration/http. The third needs a concurrent request: see test_idempotency.py.
ELSEWHERE = {"request-timeout", "overloaded", "idempotency-key-in-use"}


def documented() -> list[tuple[str, str, str | None]]:
    """Return each operation, status and type of problem that an in-process client can cause."""
    check = ContractCheck()
    return [
        (operation["operationId"], status, problem)
        for item in check.document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
        for status, response in operation["responses"].items()
        if status != "default"
        for problem in problems_of(check.resolve(response))
        if problem not in ELSEWHERE
    ]


def problems_of(response: dict[str, Any]) -> list[str | None]:
    """Return the types of problem in the examples of a response, or None for a success."""
    content: dict[str, Any] = response.get("content", {}).get("application/problem+json", {})
    types = {example["value"]["type"] for example in content.get("examples", {}).values()}
    return [name.removeprefix("/problems/") for name in sorted(types)] or [None]


def request_for(operation: str, outcome: str) -> dict[str, Any]:
    """Return the arguments of a request to this operation with this status or type of problem."""
    plain = PLAIN[operation]
    changes = CHANGED_FOR_ONE.get((operation, outcome), CHANGED.get(outcome, {}))
    merged: dict[str, Any] = {
        name: {**plain.get(name, {}), **changes.get(name, {})}
        for name in ("headers", "json")
        if name in plain or name in changes
    }
    request: dict[str, Any] = {**plain, **changes, **merged}
    request["url"] = plain["url"].replace(ID, request.pop("id", ID))
    request.pop("json" if "content" in request else "", None)
    return request


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
@pytest.mark.parametrize(("operation", "status", "problem"), documented())
async def test_documented_response_is_reached(
    client: ContractClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    status: str,
    problem: str | None,
) -> None:
    if status == "202":  # with less data than a real request would delete
        monkeypatch.setattr(users, "MAX_DELETED", 1)
    for request in STORED:
        assert (await client.request(**request)).status_code == 201
    async with serving(settings, status) as other:
        response = await other.request(**request_for(operation, problem or status))
    assert response.status_code == int(status)
    if problem:
        assert response.json()["type"] == f"/problems/{problem}"


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
