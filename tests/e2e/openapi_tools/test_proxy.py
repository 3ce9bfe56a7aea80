"""Prism, as a proxy between a client and the service, finds no violation of the contract.

It shares no code with the other contract tests or with Schemathesis. It forwards invalid requests
too, so that their responses are also checked. For these, it must report exactly the intended
violations of the request.

Prism does not detect undeclared parameters. It responds to HEAD with 500, and hangs on bodies that
are not JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from litestar.types import ASGIApp, Receive, Scope, Send

from app.domain.users import repository as users
from app.settings import Settings
from tests.contract.test_responses import (
    NOWHERE,
    ONE,
    PATCH,
    STORED,
    TASKS,
    WHOLE,
    documented,
    fail,
    request_for,
)
from tests.support.live import serve_in_thread
from tools.openapi.prism import proxy_for

pytestmark = pytest.mark.requirement("NFR-010")

JSON = {"Content-Type": "application/json"}
UNKNOWN = ("request.body", "additionalProperties")
# The violations that Prism must report for the request with this type of problem.
INTENDED: dict[str | None, set[tuple[str, str]]] = {
    "content-too-large": {UNKNOWN},
    "unsupported-media-type": {("request", "415")},
    "invalid-body": {UNKNOWN},
}
# Prism has no parser for YAML, so the document is a string.
INTENDED_FOR_YAML = {("response.body", "type")}


def violations(response: httpx.Response) -> set[tuple[str, str]]:
    """Return the location and keyword of each violation that Prism reports."""
    found = json.loads(response.headers.get("sl-violations", "[]"))
    return {(".".join(each["location"]), str(each.get("code"))) for each in found}


@pytest.fixture(scope="module")
def proxy(settings: Settings) -> Iterator[httpx.Client]:
    """Yield a client that reaches the service through Prism."""
    with serve_in_thread(settings) as live, proxy_for(live.port) as client:
        yield client


@pytest.fixture(scope="module")
def without_database() -> Iterator[httpx.Client]:
    """Yield a client of a service without a database."""
    with serve_in_thread(NOWHERE) as live, proxy_for(live.port) as client:
        yield client


@pytest.fixture(scope="module")
def failing(settings: Settings) -> Iterator[httpx.Client]:
    """Yield a client of a service in which every operation fails."""
    with (
        serve_in_thread(settings, guards=[fail]) as live,
        proxy_for(live.port) as client,
    ):
        yield client


STATUSES = {"503": "without_database", "500": "failing"}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("operation", "status", "problem"),
    [each for each in documented() if each[2] != "malformed-body"],  # Prism hangs
)
def test_documented_response_passes(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    proxy: httpx.Client,
    operation: str,
    status: str,
    problem: str | None,
) -> None:
    client: httpx.Client = request.getfixturevalue(STATUSES.get(status, "proxy"))
    if status == "202":  # with less data than a real request would delete
        monkeypatch.setattr(users, "MAX_DELETED", 1)
    for each in STORED:
        assert violations(proxy.request(**each)) == set()
    response = client.request(**request_for(operation, problem or status))
    assert response.status_code == int(status)
    is_yaml = (operation, status) == ("getContractYaml", "200")
    assert violations(response) == (INTENDED_FOR_YAML if is_yaml else INTENDED.get(problem, set()))


@pytest.mark.usefixtures("database")
def test_pagination_passes(proxy: httpx.Client) -> None:
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
def test_lifecycle_of_a_task_passes(proxy: httpx.Client) -> None:
    created = proxy.put(ONE, json=WHOLE, headers={"If-None-Match": "*"})
    tag = {"If-Match": created.headers["ETag"]}
    described = proxy.patch(ONE, content=b'{"description": "Two"}', headers={**PATCH, **tag})
    conflict = proxy.patch(ONE, content=b'{"completed": true}', headers={**PATCH, **tag})
    cleared = proxy.patch(ONE, content=b'{"description": null}', headers=PATCH)
    done = proxy.patch(ONE, content=b'{"completed": true}', headers=JSON)
    same = proxy.get(ONE, headers={"If-None-Match": done.headers["ETag"]})
    deleted = proxy.delete(ONE, headers={"If-Match": done.headers["ETag"]})
    responses = [created, described, conflict, cleared, done, same, deleted]
    assert [response.status_code for response in responses] == [201, 200, 412, 200, 200, 304, 204]
    assert [violations(response) for response in responses] == [set()] * len(responses)


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
def test_service_and_proxy_reject_the_same_requests(
    proxy: httpx.Client, sent: dict[str, Any], status: int, intended: set[tuple[str, str]]
) -> None:
    response = proxy.request(**{"method": "GET", **sent})
    assert response.status_code == status
    assert violations(response) == intended


# --- the check finds errors ------------------------------------------------------------------


def inject_fault(app: ASGIApp) -> ASGIApp:
    """Change responses as the `X-Fault` header of the request describes."""

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        header = dict(scope["headers"]).get(b"x-fault", b"{}")
        fault: dict[str, Any] = json.loads(header)

        async def send_changed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["status"] = fault.get("status", message["status"])
                headers = {name.decode(): value for name, value in message["headers"]}
                headers |= {name: text.encode() for name, text in fault.get("headers", {}).items()}
                message["headers"] = [
                    (name.encode(), value)
                    for name, value in headers.items()
                    if value and name != "content-length"
                ]
            elif "members" in fault:
                body = {**json.loads(message["body"]), **fault["members"]}
                remaining = {name: value for name, value in body.items() if value != "GONE"}
                message["body"] = json.dumps(remaining).encode()
            await send(message)

        await app(scope, receive, send_changed)

    return faulty


@pytest.fixture(scope="module")
def faulty_service(settings: Settings) -> Iterator[httpx.Client]:
    """Yield a client of a service with injected faults."""
    with (
        serve_in_thread(settings, middleware=[inject_fault]) as live,
        proxy_for(live.port) as client,
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
        ({"headers": {"etag": ""}}, {("response.header", "required")}),
        (
            {"headers": {"x-content-type-options": "guess"}},
            {("response.header.x-content-type-options", "const")},
        ),
        (
            {"headers": {"content-type": "text/html"}},
            {("response", "None"), ("response.body", "type")},
        ),
        ({"status": 299}, {("response.body", "required")}),  # `default` is a Problem
    ],
)
def test_invalid_response_is_found(
    faulty_service: httpx.Client, fault: dict[str, Any], where: set[tuple[str, str]]
) -> None:
    faulty_service.put(ONE, json=WHOLE)
    assert violations(faulty_service.get(ONE)) == set()
    assert violations(faulty_service.get(ONE, headers={"X-Fault": json.dumps(fault)})) == where
