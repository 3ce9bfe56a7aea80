"""deleteTask."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from tests.support.client import FOREIGN_TAG, ContractClient, assert_problem, tasks_of

ALICE = tasks_of("alice")


async def create(client: ContractClient, title: str = "Buy milk") -> tuple[str, str]:
    """Create a task and return its path and its ETag."""
    created = await client.post(ALICE, json={"title": title})
    return created.headers["location"], created.headers["etag"]


async def titles(database: asyncpg.Connection) -> list[str]:
    return [row["title"] for row in await database.fetch("SELECT title FROM tasks ORDER BY title")]


@pytest.mark.requirement("FR-006")
async def test_deletion_removes_the_row(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    path, _ = await create(client)
    await create(client, "Buy bread")
    deleted = await client.delete(path)
    assert deleted.status_code == 204
    assert deleted.content == b""
    assert await titles(database) == ["Buy bread"]


@pytest.mark.requirement("FR-006")
async def test_deleted_task_is_404(client: ContractClient) -> None:
    path, _ = await create(client)
    await client.delete(path)
    assert_problem(await client.get(path), 404, "task-not-found")


@pytest.mark.requirement("FR-006")
async def test_second_deletion_is_404(client: ContractClient) -> None:
    path, _ = await create(client)
    await client.delete(path)
    assert_problem(await client.delete(path), 404, "task-not-found")


@pytest.mark.requirement("FR-006")
async def test_deleted_task_is_not_listed(client: ContractClient) -> None:
    path, _ = await create(client)
    await client.delete(path)
    assert (await client.get(ALICE)).json()["items"] == []
    assert (await client.get(ALICE, params={"q": "milk"})).json()["items"] == []


@pytest.mark.requirement("FR-006", "FR-010")
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}, {"If-Match": '"other"'}], ids=str)
async def test_unknown_task_is_404_with_any_precondition(
    client: ContractClient, headers: dict[str, str]
) -> None:
    response = await client.delete(f"{ALICE}/{uuid4()}", headers=headers)
    assert_problem(response, 404, "task-not-found")


@pytest.mark.requirement("FR-010")
@pytest.mark.parametrize("template", ["{}", "*", '"other",{}'])
async def test_satisfied_precondition_deletes(
    client: ContractClient, database: asyncpg.Connection, template: str
) -> None:
    path, etag = await create(client)
    deleted = await client.delete(path, headers={"If-Match": template.format(etag)})
    assert deleted.status_code == 204
    assert await titles(database) == []


@pytest.mark.requirement("FR-010")
@pytest.mark.parametrize("template", ["W/{}", '"other"', FOREIGN_TAG, '""'])
async def test_failed_precondition_deletes_nothing(
    client: ContractClient, database: asyncpg.Connection, template: str
) -> None:
    path, etag = await create(client)
    subtask = {"title": "Compare prices", "parent_id": path.rpartition("/")[2]}
    assert (await client.post(ALICE, json=subtask)).status_code == 201
    response = await client.delete(path, headers={"If-Match": template.format(etag)})
    assert_problem(response, 412, "precondition-failed")
    assert await titles(database) == ["Buy milk", "Compare prices"]


@pytest.mark.requirement("FR-010")
async def test_stale_etag_deletes_nothing(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    path, etag = await create(client)
    await client.patch(path, json={"title": "Buy bread"})
    response = await client.delete(path, headers={"If-Match": etag})
    assert_problem(response, 412, "precondition-failed")
    assert await titles(database) == ["Buy bread"]


@pytest.mark.requirement("FR-021")
@pytest.mark.parametrize("etag", ["", "other", '"other', "W/*", '"a" "b"'])
async def test_malformed_precondition_deletes_nothing(
    client: ContractClient, database: asyncpg.Connection, etag: str
) -> None:
    path, _ = await create(client)
    response = await client.delete(path, headers={"If-Match": etag})
    assert_problem(response, 400, "invalid-parameter", "If-Match")
    assert await titles(database) == ["Buy milk"]
