"""What the tests of lists have in common."""

from __future__ import annotations

from typing import Any

import asyncpg

from tests.support.client import ContractClient
from tests.support.process import until

ALICE = "/api/v1/users/alice/lists"
BOB = "/api/v1/users/bob/lists"


async def create(client: ContractClient, *names: str, path: str = ALICE) -> list[dict[str, Any]]:
    """Create lists in this order and return them."""
    return [(await client.post(path, json={"name": name})).json() for name in names]


async def names(client: ContractClient, path: str = ALICE, **query: Any) -> list[str]:
    """Return the names of all lists in their order."""
    found: list[str] = []
    while True:
        page = (await client.get(path, params=query)).json()
        found += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def rows(database: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the stored lists of all users."""
    return [dict(row) for row in await database.fetch("SELECT * FROM lists ORDER BY user_id, id")]


async def until_blocked(connection: asyncpg.Connection) -> None:
    """Wait until a statement of the service waits for the transaction of this connection."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    await until(lambda: connection.fetchval(query))
