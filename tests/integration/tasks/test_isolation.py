"""No operation gives access to the tasks of another user."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.client import ContractClient, assert_problem, tasks_of

ID = UUID("0198c5a2-7e1f-7b3a-9d55-2f6f0c1e8a44")
SECRET = {"title": "alice secret", "description": None, "completed": False}
# User ids similar to alice: other case, a prefix, a pattern.
OTHERS = ["bob", "Alice", "ALICE", "alic", "alice1", "alice.", "alice|", "a", "0", "alice-alice"]


@pytest.fixture
async def secret(client: ContractClient) -> dict[str, Any]:
    created: dict[str, Any] = (await client.put(f"{tasks_of('alice')}/{ID}", json=SECRET)).json()
    return created


async def stored(database: asyncpg.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("SELECT * FROM tasks ORDER BY user_id, id")]


@pytest.mark.requirement("FR-020")
@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("user", OTHERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_does_not_find_tasks_of_another_user(
    client: ContractClient, method: str, user: str
) -> None:
    response = await client.request(method, f"{tasks_of(user)}/{ID}")
    assert response.status_code == 404


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("etag", ["*", "{}"])
async def test_conditional_get_does_not_reveal_tasks_of_another_user(
    client: ContractClient, secret: dict[str, Any], etag: str
) -> None:
    headers = {"If-None-Match": etag.format(secret["etag"])}
    response = await client.get(f"{tasks_of('bob')}/{ID}", headers=headers)
    assert_problem(response, 404, "task-not-found")


@pytest.mark.requirement("FR-020")
@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("user", OTHERS)
@pytest.mark.parametrize(
    "query", ["", "q=alice", "q=secret", "q=al", "completed=false", "sort=updated_at", "order=asc"]
)
async def test_list_has_no_tasks_of_another_user(
    client: ContractClient, user: str, query: str
) -> None:
    response = await client.get(f"{tasks_of(user)}?{query}")
    assert response.json() == {"items": [], "next_cursor": None}


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("etag", [None, "*", "{}"], ids=str)
@pytest.mark.parametrize("change", [{}, {"title": "mine"}], ids=str)
async def test_patch_changes_no_task_of_another_user(
    client: ContractClient,
    database: asyncpg.Connection,
    secret: dict[str, Any],
    change: dict[str, str],
    etag: str | None,
) -> None:
    before = await stored(database)
    headers = {} if etag is None else {"If-Match": etag.format(secret["etag"])}
    response = await client.patch(f"{tasks_of('bob')}/{ID}", json=change, headers=headers)
    assert_problem(response, 404, "task-not-found")
    assert await stored(database) == before


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("etag", [None, "*", "{}"], ids=str)
async def test_delete_removes_no_task_of_another_user(
    client: ContractClient,
    database: asyncpg.Connection,
    secret: dict[str, Any],
    etag: str | None,
) -> None:
    before = await stored(database)
    headers = {} if etag is None else {"If-Match": etag.format(secret["etag"])}
    response = await client.delete(f"{tasks_of('bob')}/{ID}", headers=headers)
    assert_problem(response, 404, "task-not-found")
    assert await stored(database) == before


@pytest.mark.requirement("FR-020")
@pytest.mark.parametrize("etag", ["*", "{}"])
async def test_conditional_put_replaces_no_task_of_another_user(
    client: ContractClient, database: asyncpg.Connection, secret: dict[str, Any], etag: str
) -> None:
    before = await stored(database)
    headers = {"If-Match": etag.format(secret["etag"])}
    response = await client.put(f"{tasks_of('bob')}/{ID}", json=SECRET, headers=headers)
    assert_problem(response, 412, "precondition-failed")
    assert await stored(database) == before


@pytest.mark.requirement("FR-020")
async def test_write_leaves_the_task_of_another_user_with_the_same_id(
    client: ContractClient, database: asyncpg.Connection, secret: dict[str, Any]
) -> None:
    task_of_bob = f"{tasks_of('bob')}/{ID}"
    await client.put(task_of_bob, json={**SECRET, "title": "bob's"})
    await client.put(task_of_bob, json={**SECRET, "title": "bob's own"})
    await client.patch(task_of_bob, json={"completed": True})
    await client.delete(task_of_bob)
    (row,) = await stored(database)
    assert (row["user_id"], row["title"]) == ("alice", "alice secret")
    assert f'"{row["etag"].hex}"' == secret["etag"]


@pytest.mark.requirement("FR-020", "FR-017")
async def test_cursor_of_another_user_is_rejected(client: ContractClient) -> None:
    for number in range(3):
        await client.post(tasks_of("alice"), json={"title": f"alice {number}"})
    first = await client.get(tasks_of("alice"), params={"limit": 1})
    params = {"limit": 1, "cursor": first.json()["next_cursor"]}
    response = await client.get(tasks_of("bob"), params=params)
    assert_problem(response, 400, "invalid-cursor", "cursor")


@pytest.mark.requirement("FR-019", "FR-020")
@pytest.mark.parametrize("user", ["milk", "MILK", "m", "0milk", "milk:milk"])
async def test_user_id_equal_to_a_search_term_finds_own_tasks_only(
    client: ContractClient, user: str
) -> None:
    await client.post(tasks_of("alice"), json={"title": "Buy milk", "description": user})
    own = await client.post(tasks_of(user), json={"title": "milk"})
    response = await client.get(tasks_of(user), params={"q": "milk"})
    assert [task["id"] for task in response.json()["items"]] == [own.json()["id"]]


@pytest.mark.requirement("FR-019", "FR-020")
@pytest.mark.parametrize("q", ["alice", "al", ":alice", "user", "bob"])
async def test_user_id_is_not_a_search_term(client: ContractClient, q: str) -> None:
    await client.post(tasks_of("alice"), json={"title": "Buy milk"})
    response = await client.get(tasks_of("alice"), params={"q": q})
    assert response.json()["items"] == []
