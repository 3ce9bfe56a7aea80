"""A second opinion: Prism stands between a client and the service and finds nothing wrong.

It shares no code with the checks of the other tests, nor with Schemathesis. Requests that are meant
to be refused are let through, so that their answers are looked at too; what Prism has against a
request is then exactly what was put into it.

What it cannot see: a parameter that is not declared, HEAD (which it answers itself, with 500), and
bodies that are not JSON, at which it hangs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from litestar.types import ASGIApp, Receive, Scope, Send

from app.settings import Settings
from tests.contract.test_responses import (
    CHANGED,
    CHANGED_FOR_ONE,
    NOWHERE,
    ONE,
    PATCH,
    PLAIN,
    TASKS,
    WHOLE,
    documented,
    fail,
)
from tests.support.live import serve_in_thread
from tools.openapi.prism import proxy_before

pytestmark = pytest.mark.requirement("NFR-010")

JSON = {"Content-Type": "application/json"}
LONG = json.dumps({**WHOLE, "title": "x" * 131_072}).encode()
MISSING = ("request.body", "required")
UNKNOWN = ("request.body", "additionalProperties")
TOO_LONG = ("request.body.title", "maxLength")
# What Prism must have against the request of this status, on top of nothing.
INTENDED: dict[str, set[tuple[str, str]]] = {
    "413": {TOO_LONG},
    "415": {("request", "415")},
    "422": {MISSING, UNKNOWN},
}
INTENDED_FOR_ONE = {
    ("updateTask", "422"): {UNKNOWN},
    # Prism has no parser for YAML: to it the document is a string.
    ("getContractYaml", "200"): {("response.body", "type")},
}
# Spaces alone are too large as well, but not JSON.
OTHERWISE = {"413": {"content": LONG, "headers": JSON}}


def violations(response: httpx.Response) -> set[tuple[str, str]]:
    """What Prism has against a request and its response: where, and by which keyword."""
    found = json.loads(response.headers.get("sl-violations", "[]"))
    return {(".".join(each["location"]), str(each.get("code"))) for each in found}


@pytest.fixture(scope="module")
def proxy(settings: Settings) -> Iterator[httpx.Client]:
    """A client behind a proxy of the service."""
    with serve_in_thread(settings) as live, proxy_before(live.port) as client:
        yield client


@pytest.fixture(scope="module")
def without_database() -> Iterator[httpx.Client]:
    """The same where the database is away."""
    with serve_in_thread(NOWHERE) as live, proxy_before(live.port) as client:
        yield client


@pytest.fixture(scope="module")
def failing(settings: Settings) -> Iterator[httpx.Client]:
    """The same with a fault in every operation."""
    with (
        serve_in_thread(settings, guards=[fail]) as live,
        proxy_before(live.port) as client,
    ):
        yield client


STATUSES = {"503": "without_database", "500": "failing"}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("operation", "status"), documented())
def test_each_documented_response_passes(
    request: pytest.FixtureRequest, proxy: httpx.Client, operation: str, status: str
) -> None:
    client: httpx.Client = request.getfixturevalue(STATUSES.get(status, "proxy"))
    changes = CHANGED_FOR_ONE.get((operation, status), {**CHANGED, **OTHERWISE}.get(status, {}))
    sent = {**PLAIN[operation], **changes}
    sent.pop("json" if "content" in changes else "", None)
    assert violations(proxy.put(ONE, json=WHOLE)) == set()
    response = client.request(**sent)
    assert response.status_code == int(status)
    intended = INTENDED_FOR_ONE.get((operation, status), INTENDED.get(status, set()))
    assert violations(response) == intended


@pytest.mark.usefixtures("database")
def test_a_walk_through_a_list_passes(proxy: httpx.Client) -> None:
    query = {
        "limit": "1",
        "completed": "false",
        "q": "milk",
        "created_after": "2026-01-01T00:00:00Z",
        "created_before": "2100-01-01T00:00:00+02:00",
        "updated_after": "2026-01-01T00:00:00Z",
        "updated_before": "2100-01-01T00:00:00Z",
        "sort": "updated_at",
        "order": "asc",
    }
    for number in range(3):
        created = proxy.post(TASKS, json={"title": f"Buy milk {number}"})
        assert violations(created) == set()
    found = []
    cursor: dict[str, str] | None = {}
    while cursor is not None:
        page = proxy.get(TASKS, params={**query, **cursor})
        assert violations(page) == set()
        found += [task["title"] for task in page.json()["items"]]
        following = page.json()["next_cursor"]
        cursor = following and {"cursor": following}
    assert found == ["Buy milk 0", "Buy milk 1", "Buy milk 2"]


@pytest.mark.usefixtures("database")
def test_a_life_of_a_task_passes(proxy: httpx.Client) -> None:
    unseen = proxy.put(ONE, json=WHOLE, headers={"If-None-Match": "*"})
    tag = {"If-Match": unseen.headers["ETag"]}
    described = proxy.patch(ONE, content=b'{"description": "Two"}', headers={**PATCH, **tag})
    late = proxy.patch(ONE, content=b'{"completed": true}', headers={**PATCH, **tag})
    cleared = proxy.patch(ONE, content=b'{"description": null}', headers=PATCH)
    done = proxy.patch(ONE, content=b'{"completed": true}', headers=JSON)
    same = proxy.get(ONE, headers={"If-None-Match": done.headers["ETag"]})
    deleted = proxy.delete(ONE, headers={"If-Match": done.headers["ETag"]})
    answers = [unseen, described, late, cleared, done, same, deleted]
    assert [answer.status_code for answer in answers] == [201, 200, 412, 200, 200, 304, 204]
    assert [violations(answer) for answer in answers] == [set()] * len(answers)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("sent", "status", "intended"),
    [
        ({"url": TASKS, "params": {"limit": "0"}}, 400, {("request.query.limit", "minimum")}),
        ({"url": TASKS, "params": {"limit": "x"}}, 400, {("request.query.limit", "type")}),
        ({"url": TASKS, "params": {"sort": "id"}}, 400, {("request.query.sort", "enum")}),
        ({"url": TASKS, "params": {"cursor": "x"}}, 400, {("request.query.cursor", "minLength")}),
        ({"url": f"{TASKS}/1"}, 400, {("request.path.task_id", "format")}),
        (
            {"url": ONE, "headers": {"If-None-Match": "x"}},
            400,
            {("request.header.if-none-match", "pattern")},
        ),
        (
            {"method": "POST", "url": TASKS, "json": {"title": " "}},
            422,
            {("request.body.title", "pattern")},
        ),
        (
            {"method": "POST", "url": TASKS, "json": {"title": None}},
            422,
            {("request.body.title", "type")},
        ),
    ],
)
def test_service_and_proxy_refuse_the_same(
    proxy: httpx.Client, sent: dict[str, Any], status: int, intended: set[tuple[str, str]]
) -> None:
    response = proxy.request(**{"method": "GET", **sent})
    assert response.status_code == status
    assert violations(response) == intended


# --- it bites ------------------------------------------------------------------------------------


def wrongly(app: ASGIApp) -> ASGIApp:
    """Answers as right as ever, but for what the request itself asks to have spoilt."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        asked = dict(scope["headers"]).get(b"x-fault", b"{}")
        fault: dict[str, Any] = json.loads(asked)

        async def spoil(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["status"] = fault.get("status", message["status"])
                fields = {name.decode(): value for name, value in message["headers"]}
                fields |= {name: text.encode() for name, text in fault.get("fields", {}).items()}
                message["headers"] = [
                    (name.encode(), value)
                    for name, value in fields.items()
                    if value and name != "content-length"
                ]
            elif "members" in fault:
                body = {**json.loads(message["body"]), **fault["members"]}
                kept = {name: value for name, value in body.items() if value != "GONE"}
                message["body"] = json.dumps(kept).encode()
            await send(message)

        await app(scope, receive, spoil)

    return faulty


@pytest.fixture(scope="module")
def spoiling(settings: Settings) -> Iterator[httpx.Client]:
    """A client behind a proxy of a service that answers wrongly."""
    with (
        serve_in_thread(settings, middleware=[wrongly]) as live,
        proxy_before(live.port) as client,
    ):
        yield client


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ({"members": {"etag": "GONE"}}, {("response.body", "required")}),
        ({"members": {"title": None}}, {("response.body.title", "type")}),
        ({"members": {"description": 5}}, {("response.body.description", "type")}),
        ({"members": {"title": "x" * 501}}, {("response.body.title", "maxLength")}),
        ({"members": {"etag": "x" * 34}}, {("response.body.etag", "pattern")}),
        ({"members": {"created_at": "today"}}, {("response.body.created_at", "format")}),
        ({"fields": {"etag": ""}}, {("response.header", "required")}),
        (
            {"fields": {"x-content-type-options": "guess"}},
            {("response.header.x-content-type-options", "const")},
        ),
        (
            {"fields": {"content-type": "text/html"}},
            {("response", "None"), ("response.body", "type")},
        ),
        ({"status": 299}, {("response.body", "required")}),  # `default` is a Problem
    ],
)
def test_a_fault_of_a_response_is_found(
    spoiling: httpx.Client, fault: dict[str, Any], where: set[tuple[str, str]]
) -> None:
    spoiling.put(ONE, json=WHOLE)
    assert violations(spoiling.get(ONE)) == set()
    assert violations(spoiling.get(ONE, headers={"X-Fault": json.dumps(fault)})) == where
