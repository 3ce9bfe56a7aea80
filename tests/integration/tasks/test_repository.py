"""The effect of each repository statement on a row."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of

ALICE = tasks_of("alice")
PATH = f"{ALICE}/{UUID(int=1)}"
OPEN = {"title": "Buy MILK", "description": None, "completed": False}
DONE = {**OPEN, "completed": True}
FUTURE = """
    UPDATE tasks SET updated_at = now() + interval '1 day',
        completed_at = CASE WHEN completed_at IS NOT NULL THEN created_at END
"""


async def put(client: ContractClient, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await client.put(PATH, json=body, headers=named)
    assert response.is_success
    stored: dict[str, Any] = response.json()
    return stored


@pytest.mark.requirement("FR-007")
async def test_task_created_completed_has_completed_at_of_creation(
    client: ContractClient,
) -> None:
    assert (await put(client, OPEN))["completed_at"] is None
    await client.delete(PATH)
    done = await put(client, DONE)
    assert done["completed_at"] == done["created_at"] == done["updated_at"]
    created = (await client.post(ALICE, json=DONE)).json()
    assert created["completed_at"] == created["created_at"] == created["updated_at"]


@pytest.mark.requirement("FR-007")
@pytest.mark.parametrize("operation", ["upsert", "replace", "patch"])
async def test_completed_at_is_kept(client: ContractClient, operation: str) -> None:
    async def change(*, completed: bool) -> dict[str, Any]:
        if operation == "patch":
            response = (await client.patch(PATH, json={"completed": completed})).json()
            return dict(response)
        headers = {"If_Match": "*"} if operation == "replace" else {}
        return await put(client, {**OPEN, "completed": completed}, **headers)

    before = await put(client, OPEN)
    first = await change(completed=True)
    assert first["completed_at"] == first["updated_at"] > before["updated_at"]
    second = await change(completed=True)
    assert second["completed_at"] == first["completed_at"] < second["updated_at"]
    assert (await change(completed=False))["completed_at"] is None


@pytest.mark.requirement("FR-009")
@pytest.mark.parametrize("body", [OPEN, DONE], ids=["open", "completed"])
@pytest.mark.parametrize("operation", ["upsert", "replace", "patch"])
async def test_updated_at_increases_when_the_clock_goes_back(
    client: ContractClient, database: asyncpg.Connection, body: dict[str, Any], operation: str
) -> None:
    await put(client, body)
    await database.execute(FUTURE)
    before = (await client.get(PATH)).json()
    if operation == "patch":
        after = (await client.patch(PATH, json={"completed": True})).json()
    else:
        after = await put(client, DONE, **({"If_Match": "*"} if operation == "replace" else {}))
    first, second = (datetime.fromisoformat(task["updated_at"]) for task in (before, after))
    assert second - first == timedelta(microseconds=1)
    expected = before["completed_at"] or after["updated_at"]
    assert after["completed_at"] == expected


@pytest.mark.requirement("FR-010")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_only_the_current_etag_allows_a_change(client: ContractClient, method: str) -> None:
    etag = (await client.put(PATH, json=OPEN)).headers["etag"]
    body = None if method == "DELETE" else {**OPEN, "title": "Else"}
    response = await client.request(method, PATH, headers={"If-Match": FOREIGN_TAG}, json=body)
    assert_problem(response, 412, "precondition-failed")
    current = await client.get(PATH)
    assert (current.headers["etag"], current.json()["title"]) == (etag, OPEN["title"])
    etags = f"{FOREIGN_TAG}, {etag}"
    assert (await client.request(method, PATH, headers={"If-Match": etags}, json=body)).is_success
    after = await client.get(PATH)
    assert after.status_code == 404 if method == "DELETE" else after.json()["title"] == "Else"


@pytest.mark.requirement("FR-019")
@pytest.mark.parametrize("term", ["milk", "MILK", "Milk"])
async def test_search_is_case_insensitive(client: ContractClient, term: str) -> None:
    await put(client, OPEN)
    tasks = (await client.get(ALICE, params={"q": term})).json()["items"]
    assert [task["title"] for task in tasks] == [OPEN["title"]]
