"""Erasure of a user, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from app.db.statements import compile_statement
from app.domain.users import repository
from app.domain.users.statements import DELETE_KEYS, DELETE_ROWS, DELETE_USER, RENEW_EPOCH
from tests.support.client import ContractClient, assert_problem, tasks_of
from tests.support.distributed import find_errors
from tests.support.query_trees import FunctionCatalog, analyze

USER = "/api/v1/users/alice"
ALICE = tasks_of("alice")
TABLES = ("tasks", "lists", "tombstones", "idempotency_keys", "users")
# Rows of Alice, and of each table in the order of deletion: two subtasks, three tasks, two lists,
# two tombstones and two keys.
ROWS = 11
VALUES = {"owner": "alice", "row_limit": 1, "new_epoch": None}


async def fill(client: ContractClient, user: str = "alice") -> None:
    """Create rows in every table."""
    tasks = tasks_of(user)
    lists = tasks.replace("/tasks", "/lists")
    ids = [(await client.post(lists, json={"name": "a"})).json()["id"] for _ in range(2)]
    parent = await client.post(tasks, json={"title": "a", "list_id": ids[0]})
    for _ in range(2):
        await client.post(tasks, json={"title": "a", "parent_id": parent.json()["id"]})
    await client.post(tasks, json={"title": "a"}, headers={"Idempotency-Key": "1"})
    batch = {"create": [{"title": "a"}]}
    await client.post(f"{tasks}/batch", json=batch, headers={"Idempotency-Key": "2"})
    gone = (await client.post(tasks, json={"title": "a"})).json()["id"]
    await client.delete(f"{tasks}/{gone}")
    gone = (await client.post(lists, json={"name": "a"})).json()["id"]
    await client.delete(f"{lists}/{gone}")


async def rows_of(database: asyncpg.Connection, user: str) -> dict[str, int]:
    return {
        table: await database.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", user)  # noqa: S608 - no input
        for table in TABLES
    }


@pytest.mark.requirement("FR-233")
async def test_nothing_of_a_user_is_left(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    await fill(client)
    await fill(client, "bob")
    before = await rows_of(database, "bob")
    assert before == {"tasks": 5, "lists": 2, "tombstones": 2, "idempotency_keys": 2, "users": 1}
    for _ in range(2):
        assert (await client.delete(USER)).status_code == 204
        assert await rows_of(database, "alice") == dict.fromkeys(TABLES, 0)
    assert await rows_of(database, "bob") == before


@pytest.mark.requirement("FR-233")
async def test_unknown_user_is_204_and_gets_no_row(
    client: ContractClient, database: asyncpg.Connection
) -> None:
    assert (await client.delete(USER)).status_code == 204
    assert await rows_of(database, "alice") == dict.fromkeys(TABLES, 0)


@pytest.mark.requirement("FR-234")
@pytest.mark.parametrize(("limit", "requests"), [(1, 12), (3, 4), (10, 2), (11, 2), (12, 1)])
async def test_request_deletes_a_limited_number_of_rows(
    client: ContractClient,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    requests: int,
) -> None:
    monkeypatch.setattr(repository, "MAX_DELETED", limit)
    await fill(client)
    for number in range(1, requests):
        response = await client.delete(USER)
        assert response.status_code == 202
        assert int(response.headers["retry-after"]) >= 1
        left = await rows_of(database, "alice")
        assert left.pop("users") == 1
        assert sum(left.values()) == ROWS - number * limit
    assert (await client.delete(USER)).status_code == 204
    assert await rows_of(database, "alice") == dict.fromkeys(TABLES, 0)


@pytest.mark.requirement("FR-234")
async def test_request_deletes_a_limited_number_of_keys(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_DELETED_KEYS", 2)
    for number in range(3):
        await client.post(ALICE, json={"title": "a"}, headers={"Idempotency-Key": f"k{number}"})
    assert (await client.delete(USER)).status_code == 202
    assert (await rows_of(database, "alice"))["idempotency_keys"] == 1
    assert (await client.delete(USER)).status_code == 204


@pytest.mark.requirement("FR-205", "FR-212", "FR-221", "FR-235")
async def test_tokens_and_tags_are_invalid_from_the_first_step(
    client: ContractClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    monkeypatch.setattr(repository, "MAX_DELETED", 4)
    urls = (ALICE, f"{ALICE}/count", f"{USER}/labels", f"{USER}/lists")
    statuses, since = [202], ""
    while statuses[-1] == 202:
        since = (await client.get(f"{USER}/changes")).json()["next_since"]
        tags = [(await client.get(url)).headers["etag"] for url in urls]
        statuses.append((await client.delete(USER)).status_code)
        response = await client.get(f"{USER}/changes", params={"since": since})
        assert_problem(response, 410, "token-expired")
        for url, tag in zip(urls, tags, strict=True):
            assert (await client.get(url, headers={"If-None-Match": tag})).status_code == 200
    assert statuses[1:] == [202, 202, 204]
    await client.post(ALICE, json={"title": "a"})
    response = await client.get(f"{USER}/changes", params={"since": since})
    assert_problem(response, 410, "token-expired")
    assert len((await client.get(f"{USER}/changes")).json()["items"]) == 1


@pytest.mark.requirement("NFR-208")
async def test_distributed_database_accepts_every_statement(database: asyncpg.Connection) -> None:
    catalog = await FunctionCatalog.read(database)
    for statement in (*DELETE_ROWS, DELETE_KEYS, DELETE_USER, RENEW_EPOCH):
        sql = compile_statement(statement, VALUES).sql
        assert find_errors(await analyze(database, sql), catalog) == set(), sql


@pytest.mark.requirement("FR-233")
async def test_key_of_an_erased_user_is_new(client: ContractClient) -> None:
    async def create() -> Any:
        headers = {"Idempotency-Key": "k"}
        return (await client.post(ALICE, json={"title": "a"}, headers=headers)).json()["id"]

    first = await create()
    await client.delete(USER)
    assert await create() != first


@pytest.mark.requirement("FR-229", "FR-233")
async def test_erasure_next_to_writers_leaves_whole_tasks_or_nothing(
    client: ContractClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_DELETED", 5)

    async def write() -> set[int]:
        statuses = set()
        for _ in range(15):
            created = await client.post(ALICE, json={"title": "a"})
            body = {"title": "b", "parent_id": created.json()["id"]}
            subtask = await client.post(ALICE, json=body)
            statuses |= {created.status_code, subtask.status_code}
        return statuses

    async def erase() -> set[int]:
        return {(await client.delete(USER)).status_code for _ in range(15)}

    results = await asyncio.gather(write(), write(), erase())
    assert results[0] | results[1] <= {201, 409}
    assert results[2] <= {202, 204}
    revisions = await database.fetch(
        "SELECT DISTINCT tasks.revision > users.revision FROM tasks JOIN users USING (user_id)"
    )
    assert [row[0] for row in revisions] in ([], [False])
    while (await client.delete(USER)).status_code == 202:
        pass
    assert await rows_of(database, "alice") == dict.fromkeys(TABLES, 0)
