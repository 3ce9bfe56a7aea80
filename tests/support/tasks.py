"""Tasks and lists for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from tests.support.client import ContractClient, tasks_of

UNKNOWN_ID = "0198c5a2-0000-7000-8000-000000000000"
# The new properties of a task that has only those of contract 1.0.0.
EMPTY: dict[str, Any] = {
    "list_id": None,
    "parent_id": None,
    "priority": "none",
    "due": None,
    "due_at": None,
    "labels": [],
}


async def insert_list(
    database: asyncpg.Connection, user: str = "alice", id_: UUID | None = None
) -> str:
    """Insert a list and return its ID."""
    id_ = id_ or uuid4()
    await database.execute(
        "INSERT INTO lists (user_id, id, name, created_at, updated_at, etag)"
        " VALUES ($1, $2, 'a list', now(), now(), gen_random_uuid())",
        user,
        id_,
    )
    return str(id_)


async def create(client: ContractClient, user: str = "alice", **properties: Any) -> dict[str, Any]:
    """Create a task, with the title "Buy milk" unless another is given, and return it."""
    response = await client.post(tasks_of(user), json={"title": "Buy milk", **properties})
    assert response.status_code == 201, response.text
    task: dict[str, Any] = response.json()
    return task


def path_of(task: dict[str, Any]) -> str:
    """Return the path of a task."""
    return f"{tasks_of(task['user_id'])}/{task['id']}"


async def read(client: ContractClient, task: dict[str, Any]) -> dict[str, Any]:
    """Return the current representation of a task."""
    response = await client.get(path_of(task))
    assert response.status_code == 200, response.text
    current: dict[str, Any] = response.json()
    return current


async def titles(client: ContractClient, user: str = "alice", **params: Any) -> list[str]:
    """Return the titles of the tasks on all pages."""
    found: list[str] = []
    while True:
        response = await client.get(tasks_of(user), params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [task["title"] for task in page["items"]]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


async def stored(database: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the stored tasks of all users."""
    return [dict(row) for row in await database.fetch("SELECT * FROM tasks ORDER BY user_id, id")]


def errors_of(response: httpx.Response) -> list[tuple[str, str]]:
    """Return the pointer and the detail of each error of a problem."""
    errors: Iterable[dict[str, str]] = response.json()["errors"]
    return [(error["pointer"], error["detail"]) for error in errors]
